"""Losses of dense heads: unnormalised sums with their weight applied, in float32.

Letters: B images, P samples of one image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from detcli.losses import box
from detcli.losses.box import BoxLoss, KLLoss
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
from detcli.losses.softmax import AMSoftmax, Softmax, SoftmaxFormula, SoftmaxLoss

__all__ = [
    "BOX_LOSSES",
    "CLASS_LOSSES",
    "KL",
    "MINING",
    "SOFTMAX_LOSSES",
    "BoxLoss",
    "ClassLoss",
    "KLLoss",
    "Mining",
    "SoftmaxLoss",
    "build_box_loss",
    "build_class_loss",
    "build_mining",
    "build_side_loss",
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
SOFTMAX_LOSSES: dict[str, Callable[..., SoftmaxFormula]] = {
    "softmax": Softmax,
    "am_softmax": AMSoftmax,
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
KL = "kl"  # beside these, where the head also predicts the variance of each side
CODE_LOSSES = ("l1", "l2", "smooth_l1")  # compare what the head regresses, the others boxes
BOX_OPTIONS = {"smooth_l1": "beta", "iou": "form", "focal_eiou": "gamma"}

MINING: dict[str, Callable[..., Mining]] = {"hardest": HardestNegatives, "rank": RankWeights}
MINING_OPTIONS = {"hardest": ("negatives_per_object", "background_images"), "rank": ("power",)}


def build_class_loss(name: str, *, weight: float, **keywords: Any) -> ClassLoss | SoftmaxLoss:
    """The classification loss of this name; keywords are the fields of its formula."""
    if name in SOFTMAX_LOSSES:
        return SoftmaxLoss(SOFTMAX_LOSSES[name](**keywords), weight)
    return ClassLoss(CLASS_LOSSES[name](**keywords), weight)


def build_side_loss(name: str, *, weight: float, **options: Any) -> BoxLoss | KLLoss:
    """As `build_box_loss`, and "kl" for a head that predicts how uncertain each side is."""
    return KLLoss(weight) if name == KL else build_box_loss(name, weight=weight, **options)


def build_box_loss(name: str, *, weight: float, **options: Any) -> BoxLoss:
    """The box loss of this name, with the one of the options form, beta and gamma that it has (the
    recipe sees to it that the others are not set)."""
    own = BOX_OPTIONS.get(name)
    terms = partial(BOX_LOSSES[name], **({own: options[own]} if own else {}))
    return BoxLoss(terms, on_boxes=name not in CODE_LOSSES, weight=weight)


def build_mining(name: str, **options: Any) -> Mining:
    """The hard example mining of this name, with those of the options negatives_per_object,
    background_images and power that it has (the recipe sees to it that the others are not set)."""
    return MINING[name](**{option: options[option] for option in MINING_OPTIONS[name]})
