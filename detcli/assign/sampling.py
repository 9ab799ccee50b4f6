"""Which of the assigned priors take part in a loss (Faster R-CNN, Ren et al. 2015, section 3.1.3).

Letters: P priors of one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detcli.assign.matching import IGNORED, NEGATIVE


@dataclass(frozen=True)
class RandomSampler:
    """A random subset of an image's priors, drawn anew in every step from torch's own generator,
    which the engine seeds.

    num: so many; of these at most the share positive_share has an object, background fills the
    rest, and where background is short there are fewer. None: all of them, without chance.
    """

    num: int | None
    positive_share: float

    def __call__(self, matched: Tensor) -> Tensor:
        """`matched` (P,) int64, as an assigner gives it, with what was not drawn IGNORED."""
        if self.num is None:
            return matched
        positive = (matched >= 0).nonzero().squeeze(1)
        negative = (matched == NEGATIVE).nonzero().squeeze(1)
        positive = _draw(positive, int(self.num * self.positive_share))
        negative = _draw(negative, self.num - len(positive))
        kept = torch.full_like(matched, IGNORED)
        kept[positive] = matched[positive]
        kept[negative] = NEGATIVE
        return kept


def _draw(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows (N,) without order, or all of them where there are no more."""
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), device=rows.device)[:count]]
