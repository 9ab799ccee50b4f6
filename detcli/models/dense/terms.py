"""Loss terms that detectors share.

Letters: B images, P priors of one image, A priors per cell, C classes, h and w cells of a level,
M positive priors of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from detcli.assign import Assigner, EnlargedBoxes, enlarging
from detcli.losses import (
    BoxLoss,
    ClassLoss,
    KLLoss,
    Mining,
    SoftmaxLoss,
    build_class_loss,
    build_mining,
    build_side_loss,
)
from detcli.models.dense.matching import Matches
from detcli.models.dense.tower import flatten_levels
from detcli.ops.boxes import paired_iou
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors

if TYPE_CHECKING:
    from detcli.recipe.sections.losses import AnyClassLoss, AnySoftmaxLoss, RegressionLoss
    from detcli.recipe.sections.priors import EnlargedObjects


@dataclass(frozen=True)
class Criterion:
    """How a dense head learns: which priors take part, and its two losses.

    mining: weights of the priors in the class loss, from their losses; None: all count alike.
    small_box_factor k: an object that covers the share s of its image has the weight k (2 - s) in
    the box loss, the 2 - w h of YOLOv3's code (w and h relative to the image); None: weight 1.
    class_weights: weight of the priors of each class's objects in the class loss; None: 1.
    """

    assigner: Assigner
    class_loss: ClassLoss | SoftmaxLoss
    box_loss: BoxLoss | KLLoss
    mining: Mining | None
    small_box_factor: float | None
    class_weights: tuple[float, ...] | None

    def seen_boxes(self, boxes: Tensor) -> Tensor:
        """Boxes (M, 4) as the assigner saw them: small ones may be enlarged."""
        assigner = self.assigner
        return assigner.enlarge(boxes) if isinstance(assigner, EnlargedBoxes) else boxes


class LearningOptions(Protocol):
    """The part of a model section that says how a head learns."""

    @property
    def enlarge_small(self) -> EnlargedObjects | None: ...
    @property
    def class_loss(self) -> AnyClassLoss | AnySoftmaxLoss: ...
    @property
    def box_loss(self) -> RegressionLoss: ...


def build_criterion(options: LearningOptions, assigner: Assigner) -> Criterion:
    """The criterion of a model section. class_loss.class_weights: {label: number}, or None; how
    numbers come about is the engine's business."""
    class_loss, box_loss = options.class_loss, options.box_loss
    weights = class_loss.class_weights
    assert not isinstance(weights, str), "a method, not yet numbers"
    return Criterion(
        enlarging(assigner, options.enlarge_small),
        build_class_loss(class_loss),
        build_side_loss(box_loss),
        mining=build_mining(class_loss.ohem) if class_loss.ohem else None,
        small_box_factor=box_loss.small_box_factor,
        class_weights=None
        if weights is None
        else tuple(weights[str(label)] for label in range(len(weights))),
    )


def class_term(
    criterion: Criterion,
    maps: tuple[Tensor, ...],
    labels: Tensor,
    num_classes: int,
    quality: Tensor | None,
    count: Tensor,
) -> Tensor:
    """Sum of the class loss of maps (B, A * C, h, w), with a soft-max (B, A * (C + 1), h, w),
    against labels (B, P) of all their priors and their quality (B, P), as `box_quality` gives it;
    divided by the scalar `count`.

    Level by level: joined, the logits and their gradient would be the largest tensors of all.
    """
    width = num_classes + criterion.class_loss.num_background
    weights = None
    if criterion.mining is not None:
        with torch.no_grad():
            each = _level_rows(maps, width, labels, quality)
            losses = [
                criterion.class_loss.of_each_row(logits, *wanted).view(len(labels), -1)
                for logits, *wanted in each
            ]
            weights = criterion.mining(torch.cat(losses, dim=1), labels, num_classes)
    if criterion.class_weights is not None:
        factors = object_factors(labels, criterion.class_weights)
        weights = factors if weights is None else weights * factors
    total = labels.new_zeros((), dtype=torch.float32)
    for logits, label, rating, weight in _level_rows(maps, width, labels, quality, weights):
        total = total + criterion.class_loss(logits, label, rating, weight, count)
    return total


def object_factors(labels: Tensor, class_weights: tuple[float, ...]) -> Tensor:
    """(B, P) float32: the weight of its object's class for each prior with an object, else 1;
    labels (B, P) up to C, which is background, negative for priors that do not count."""
    factors = torch.tensor([*class_weights, 1.0], device=labels.device)  # (C + 1,)
    return factors[labels.where(labels >= 0, len(class_weights))]


def box_term(
    criterion: Criterion,
    coder: BoxCoder,
    encoded: Tensor,
    matches: Matches,
    priors: Priors,
    weights: Tensor | None = None,
    alpha: Tensor | None = None,
) -> Tensor:
    """Sum of the box loss of encoded (M, 4) against the matches' boxes, row i with prior i,
    weighted by weights (M,); the KL loss needs alpha (M, 4), the log variances of the sides."""
    if criterion.small_box_factor is not None:
        small = criterion.small_box_factor * (2 - matches.image_share)
        weights = small if weights is None else weights * small
    if isinstance(criterion.box_loss, KLLoss):
        assert alpha is not None, "the recipe allows kl only to heads that predict variances"
        errors = coder.decode(encoded, priors) - matches.boxes
        return criterion.box_loss(errors / coder.side_units(priors), alpha, weights)
    if criterion.box_loss.on_boxes:
        return criterion.box_loss(coder.decode(encoded, priors), matches.boxes, weights)
    return criterion.box_loss(encoded, coder.encode(matches.boxes, priors), weights)


@torch.no_grad()
def box_quality(
    criterion: Criterion, coder: BoxCoder, encoded: Tensor, matches: Matches, priors: Priors
) -> Tensor | None:
    """IoU (B, P) of the box that each positive predicts, encoded (M, 4), with its object, and 0
    for all other priors; None where the class loss does not look at it."""
    if not criterion.class_loss.needs_quality:
        return None
    quality = encoded.new_zeros(matches.labels.shape)
    quality.view(-1)[matches.positive] = predicted_iou(coder, encoded, matches.boxes, priors)
    return quality


@torch.no_grad()
def predicted_iou(coder: BoxCoder, encoded: Tensor, boxes: Tensor, priors: Priors) -> Tensor:
    """(M,) IoU, from 0 to 1, of what encoded (M, 4) decodes to from its priors with boxes (M, 4),
    row by row; without a gradient."""
    return paired_iou(coder.decode(encoded, priors), boxes).clamp(max=1)  # rounding can lift it


def _level_rows(
    maps: tuple[Tensor, ...], num_classes: int, *columns: Tensor | None
) -> Iterator[tuple[Any, ...]]:
    """Level by level: logits (B * p, C) of its p priors and the same rows (B * p,) of each column
    (B, P)."""
    start = 0
    for level in maps:
        logits = flatten_levels((level,), num_classes)
        end = start + logits.shape[1]
        rows = [None if column is None else column[:, start:end].flatten() for column in columns]
        yield logits.flatten(0, 1), *rows
        start = end
