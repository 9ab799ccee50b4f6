"""Losses of dense heads: unnormalised sums with their weight applied, in float32.

Letters: M samples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from detcli.losses.box import GIoULoss, IoULoss, SmoothL1Loss
from detcli.losses.centerness import centerness_loss, centerness_target
from detcli.losses.classification import FocalLoss

__all__ = [
    "BOX_LOSSES",
    "CLASS_LOSSES",
    "BoxLoss",
    "ClassLoss",
    "FocalLoss",
    "GIoULoss",
    "IoULoss",
    "SmoothL1Loss",
    "build_box_loss",
    "build_class_loss",
    "centerness_loss",
    "centerness_target",
]

# (logits (M, C), labels (M,) int64 with C for background, negative: ignored) -> scalar sum
ClassLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class BoxLoss(Protocol):
    """A loss of predicted boxes, or of their codes where `on_boxes` is false."""

    @property
    def on_boxes(self) -> bool:
        """Whether it wants decoded xyxy boxes instead of what the head regresses."""

    def __call__(self, pred: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Scalar sum; pred, target (M, 4); weights (M,) or None."""


CLASS_LOSSES: dict[str, Callable[..., ClassLoss]] = {"focal": FocalLoss}

# from the weight, and beta for those that have one
BOX_LOSSES: dict[str, Callable[[float, float], BoxLoss]] = {
    "l1": lambda weight, _: SmoothL1Loss(beta=0.0, weight=weight),
    "smooth_l1": lambda weight, beta: SmoothL1Loss(beta=beta, weight=weight),
    "iou": lambda weight, _: IoULoss(weight=weight),
    "giou": lambda weight, _: GIoULoss(weight=weight),
}


def build_class_loss(name: str, **keywords: Any) -> ClassLoss:
    """The classification loss of this name; keywords are the fields of its class."""
    return CLASS_LOSSES[name](**keywords)


def build_box_loss(name: str, *, weight: float, beta: float) -> BoxLoss:
    """The box loss of this name; beta acts on smooth_l1 alone (the recipe sees to that)."""
    return BOX_LOSSES[name](weight, beta)
