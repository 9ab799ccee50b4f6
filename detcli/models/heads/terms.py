"""Loss terms that detectors share.

Letters: B images, P priors of one image, A priors per cell, C classes, h and w cells of a level,
M positive priors of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detcli.assign import Assigner, build_assigner
from detcli.losses import (
    BoxLoss,
    ClassLoss,
    Mining,
    build_box_loss,
    build_class_loss,
    build_mining,
)
from detcli.models.heads.matching import Matches
from detcli.models.heads.tower import flatten_levels
from detcli.ops.boxes import paired_iou
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors


@dataclass(frozen=True)
class Criterion:
    """How a dense head learns: which priors take part, and its two losses.

    mining: weights of the priors in the class loss, from their losses; None: all count alike.
    small_box_factor k: an object that covers the share s of its image has the weight k (2 - s) in
    the box loss, the 2 - w h of YOLOv3's code (w and h relative to the image); None: weight 1.
    """

    assigner: Assigner
    class_loss: ClassLoss
    box_loss: BoxLoss
    mining: Mining | None
    small_box_factor: float | None


def build_criterion(
    *, assigner: Mapping[str, Any], class_loss: Mapping[str, Any], box_loss: Mapping[str, Any]
) -> Criterion:
    """The criterion of these sections of a recipe."""
    class_options, box_options = dict(class_loss), dict(box_loss)
    ohem = class_options.pop("ohem")
    small_box_factor = box_options.pop("small_box_factor")
    return Criterion(
        build_assigner(**assigner),
        build_class_loss(**class_options),
        build_box_loss(**box_options),
        mining=build_mining(**ohem) if ohem else None,
        small_box_factor=small_box_factor,
    )


def class_term(
    criterion: Criterion,
    maps: tuple[Tensor, ...],
    labels: Tensor,
    num_classes: int,
    quality: Tensor | None,
) -> Tensor:
    """Sum of the class loss of maps (B, A * C, h, w) against labels (B, P) of all their priors and
    their quality (B, P), as `box_quality` gives it.

    Level by level: joined, the logits and their gradient would be the largest tensors of all.
    """
    weights = None
    if criterion.mining is not None:
        with torch.no_grad():
            each = _level_rows(maps, num_classes, labels, quality)
            losses = [
                criterion.class_loss.of_each_row(logits, *wanted).view(len(labels), -1)
                for logits, *wanted in each
            ]
            weights = criterion.mining(torch.cat(losses, dim=1), labels, num_classes)
    total = labels.new_zeros((), dtype=torch.float32)
    for logits, *wanted in _level_rows(maps, num_classes, labels, quality, weights):
        total = total + criterion.class_loss(logits, *wanted)
    return total


def box_term(
    criterion: Criterion,
    coder: BoxCoder,
    encoded: Tensor,
    matches: Matches,
    priors: Priors,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum of the box loss of encoded (M, 4) against the matches' boxes, row i with prior i,
    weighted by weights (M,)."""
    if criterion.small_box_factor is not None:
        small = criterion.small_box_factor * (2 - matches.image_share)
        weights = small if weights is None else weights * small
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
    iou = paired_iou(coder.decode(encoded, priors), matches.boxes)
    quality.view(-1)[matches.positive] = iou.clamp(max=1)  # rounding can lift it above 1
    return quality


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
