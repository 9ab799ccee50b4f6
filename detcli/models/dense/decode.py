"""From raw predictions to candidates.

Letters: B images, P priors of one level, A priors per cell, C classes, N candidates; h, w cells of
a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detcli.models.dense.tower import flatten_levels
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


def class_probabilities(
    maps: Sequence[Tensor], num_classes: int, *, num_background: int = 0
) -> list[Tensor]:
    """(B, P, C) float32 of each level, from logits (B, A * C, h, w): their sigmoids, or with an
    output for background, (B, A * (C + 1), h, w), their soft-max without it."""
    width = num_classes + num_background
    rows = [flatten_levels((level,), width).float() for level in maps]
    if num_background:
        return [level.softmax(dim=2)[..., :-1] for level in rows]
    return [level.sigmoid() for level in rows]


def decode_batch(
    scores: Sequence[Tensor],
    boxes: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    *,
    priors: Priors | Sequence[Priors],
    coder: BoxCoder,
    selection: Selection,
    factors: Sequence[Tensor] | None = None,
    columns: Mapping[str, Sequence[Tensor]] | None = None,
) -> list[Candidates]:
    """Candidates of each image of a batch, levels in order.

    Per level: scores (B, P, C) decide the selection, what the box branch predicts (B, A * 4, h, w)
    gives the boxes, which are clipped to the image's size and dropped where nothing is left, and
    factors (B, P), if any, multiply the scores afterwards, so that a final score may lie below the
    threshold. columns: extra columns of the candidates by name, per level (B, P) or (B, P, width).
    priors: those of every image, or of each one.
    """
    encoded = [flatten_levels((level,), 4).float() for level in boxes]
    grids = [priors] * len(image_sizes) if isinstance(priors, Priors) else priors
    columns = columns or {}
    found = []
    for image, (grid, size) in enumerate(zip(grids, image_sizes, strict=True)):
        parts = []
        for level, level_priors in enumerate(grid.split()):
            prior, label = selection.best(scores[level][image])
            decoded = coder.decode(encoded[level][image][prior], level_priors.take(prior))
            clipped = clip_boxes(decoded, size)
            inside = (clipped[:, 2:] > clipped[:, :2]).all(dim=1)  # in the padding nothing is left
            prior, label = prior[inside], label[inside]
            score = scores[level][image][prior, label]
            if factors is not None:
                score = score * factors[level][image][prior]
            extra = (levels[level][image][prior] for levels in columns.values())
            parts.append((clipped[inside], score, label, *extra))
        kept, kept_scores, labels, *more = map(torch.cat, zip(*parts, strict=True))
        found.append(Candidates(kept, kept_scores, labels, dict(zip(columns, more, strict=True))))
    return found
