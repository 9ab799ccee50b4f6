"""Losses of dense heads: unnormalised sums with their weight applied, in float32.

Letters: B images, P samples of one image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from detcli.losses import box
from detcli.losses.box import BoxLoss
from detcli.losses.centerness import centerness_loss, centerness_target
from detcli.losses.classification import (
    BinaryCrossEntropy,
    ClassLoss,
    Focal,
    Formula,
    QualityFocal,
    Varifocal,
)
from detcli.losses.mining import HardestNegatives, RankWeights

__all__ = [
    "BOX_LOSSES",
    "CLASS_LOSSES",
    "MINING",
    "BoxLoss",
    "ClassLoss",
    "Mining",
    "build_box_loss",
    "build_class_loss",
    "build_mining",
    "centerness_loss",
    "centerness_target",
]

# (losses (B, P), labels (B, P) int64, number of classes) -> (B, P) weights of the samples
Mining: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]

CLASS_LOSSES: dict[str, Callable[..., Formula]] = {
    "focal": Focal,
    "bce": BinaryCrossEntropy,
    "varifocal": Varifocal,
    "quality_focal": QualityFocal,
}

BOX_LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": box.l1_terms,
    "l2": box.l2_terms,
    "smooth_l1": box.smooth_l1_terms,
    "iou": box.iou_terms,
    "giou": box.giou_terms,
    "diou": box.diou_terms,
    "ciou": box.ciou_terms,
    "eiou": box.eiou_terms,
    "focal_eiou": box.focal_eiou_terms,
}
CODE_LOSSES = ("l1", "l2", "smooth_l1")  # compare what the head regresses, the others boxes
BOX_OPTIONS = {"smooth_l1": "beta", "iou": "form", "focal_eiou": "gamma"}

MINING: dict[str, Callable[[float, float], Mining]] = {
    "hardest": lambda negatives_per_object, _: HardestNegatives(negatives_per_object),
    "rank": lambda _, power: RankWeights(power),
}


def build_class_loss(name: str, *, weight: float, **keywords: Any) -> ClassLoss:
    """The classification loss of this name; keywords are the fields of its formula."""
    return ClassLoss(CLASS_LOSSES[name](**keywords), weight)


def build_box_loss(name: str, *, weight: float, **options: Any) -> BoxLoss:
    """The box loss of this name, with the one of the options form, beta and gamma that it has (the
    recipe sees to it that the others are not set)."""
    own = BOX_OPTIONS.get(name)
    terms = partial(BOX_LOSSES[name], **({own: options[own]} if own else {}))
    return BoxLoss(terms, on_boxes=name not in CODE_LOSSES, weight=weight)


def build_mining(name: str, *, negatives_per_object: float, power: float) -> Mining:
    """The hard example mining of this name; negatives_per_object acts on hardest alone, power on
    rank (the recipe sees to that)."""
    return MINING[name](negatives_per_object, power)
