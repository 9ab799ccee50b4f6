"""From raw predictions to candidates.

Letters: P priors of one level, C classes, N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detcli.ops.boxes import clip_boxes
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors
from detcli.types import Candidates


@dataclass(frozen=True)
class Selection:
    """Which predictions become candidates.

    score_threshold: a score must be above it; topk_per_level: so many of the best per level.
    """

    score_threshold: float
    topk_per_level: int

    def best(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Prior and label (N,), (N,) int64 of the chosen scores (P, C), best first.

        Equal scores stay in the order of prior, then label.
        """
        prior, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        order = scores[prior, label].argsort(descending=True, stable=True)[: self.topk_per_level]
        return prior[order], label[order]


def non_empty(boxes: Tensor, scores: Tensor, labels: Tensor) -> Candidates:
    """Candidates from boxes (N, 4), scores and labels (N,), less those of which nothing is left,
    such as those in the padding, or whose sides were predicted below 0."""
    some = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return Candidates(boxes[some], scores[some], labels[some])


def decode_image(
    scores: Sequence[Tensor],
    encoded: Sequence[Tensor],
    factors: Sequence[Tensor] | None,
    *,
    priors: Sequence[Priors],
    coder: BoxCoder,
    selection: Selection,
    size: tuple[int, int],
    columns: Mapping[str, Sequence[Tensor]] | None = None,
) -> Candidates:
    """Candidates of one image, levels in order.

    Per level: scores (P, C) decide the selection, encoded (P, 4) gives the boxes, which are
    clipped to the image's `size` and dropped where nothing is left, and factors (P,), if any,
    multiply the scores afterwards, so that a final score may lie below the threshold. columns:
    extra columns of the candidates by name, per level (P,) or (P, width).
    """
    boxes, kept_scores, labels = [], [], []
    columns = columns or {}
    extra: dict[str, list[Tensor]] = {name: [] for name in columns}
    for level, level_priors in enumerate(priors):
        prior, label = selection.best(scores[level])
        decoded = coder.decode(encoded[level][prior], level_priors.take(prior))
        clipped = clip_boxes(decoded, size)
        inside = (clipped[:, 2:] > clipped[:, :2]).all(dim=1)  # in the padding nothing is left
        prior, label = prior[inside], label[inside]
        score = scores[level][prior, label]
        boxes.append(clipped[inside])
        kept_scores.append(score if factors is None else score * factors[level][prior])
        labels.append(label)
        for name, levels in columns.items():
            extra[name].append(levels[level][prior])
    return Candidates(
        torch.cat(boxes),
        torch.cat(kept_scores),
        torch.cat(labels),
        {name: torch.cat(parts) for name, parts in extra.items()},
    )
