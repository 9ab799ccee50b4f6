"""Loss terms that detectors share.

Letters: M positive priors of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from detcli.assign import Assigner
from detcli.losses import BoxLoss, ClassLoss
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors


@dataclass(frozen=True)
class Criterion:
    """How a dense head learns: which priors take part, and its two losses."""

    assigner: Assigner
    class_loss: ClassLoss
    box_loss: BoxLoss


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
