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


def class_probabilities(maps: Sequence[Tensor], num_classes: int) -> list[Tensor]:
    """(B, P, C) float32 sigmoids of each level, from logits (B, A * C, h, w)."""
    return [flatten_levels((level,), num_classes).float().sigmoid() for level in maps]


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
    """Candidates of each image of a batch, see `decode_image`.

    Per level: scores (B, P, C), what the box branch predicts, boxes (B, A * 4, h, w), factors
    (B, P) and columns (B, P) or (B, P, width). priors: those of every image, or of each one.
    """
    encoded = [flatten_levels((level,), 4).float() for level in boxes]
    grids = [priors] * len(image_sizes) if isinstance(priors, Priors) else priors
    columns = columns or {}
    return [
        decode_image(
            [level[image] for level in scores],
            [level[image] for level in encoded],
            None if factors is None else [level[image] for level in factors],
            priors=grid.split(),
            coder=coder,
            selection=selection,
            size=size,
            columns={name: [level[image] for level in levels] for name, levels in columns.items()},
        )
        for image, (grid, size) in enumerate(zip(grids, image_sizes, strict=True))
    ]


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
