"""Loss terms that detectors share.

Letters: B images, P priors of one image, A priors per cell, C classes, h and w cells of a level,
M positive priors of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detcli.assign import Assigner
from detcli.losses import BoxLoss, ClassLoss
from detcli.models.heads.tower import flatten_levels
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors


@dataclass(frozen=True)
class Criterion:
    """How a dense head learns: which priors take part, and its two losses."""

    assigner: Assigner
    class_loss: ClassLoss
    box_loss: BoxLoss


def class_term(
    criterion: Criterion, maps: tuple[Tensor, ...], labels: Tensor, num_classes: int
) -> Tensor:
    """Sum of the class loss of maps (B, A * C, h, w) against labels (B, P) of all their priors.

    Level by level: joined, the logits and their gradient would be the largest tensors of all.
    """
    total, start = labels.new_zeros((), dtype=torch.float32), 0
    for level in maps:
        logits = flatten_levels((level,), num_classes)
        end = start + logits.shape[1]
        wanted = labels[:, start:end].flatten()
        total = total + criterion.class_loss(logits.flatten(0, 1), wanted)
        start = end
    return total


def box_term(
    criterion: Criterion,
    coder: BoxCoder,
    encoded: Tensor,
    boxes: Tensor,
    priors: Priors,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum of the box loss of encoded (M, 4) against boxes (M, 4), weighted by weights (M,)."""
    if criterion.box_loss.on_boxes:
        return criterion.box_loss(coder.decode(encoded, priors), boxes, weights)
    return criterion.box_loss(encoded, coder.encode(boxes, priors), weights)
