"""Losses of dense heads: unnormalised sums with their weight applied, in float32.

Letters: B images, P samples of one image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

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
from detcli.losses.softmax import AMSoftmax, Softmax, SoftmaxLoss

if TYPE_CHECKING:
    from detcli.recipe.sections.losses import AnyClassLoss, AnySoftmaxLoss, Ohem, RegressionLoss
    from detcli.recipe.sections.models.deformable_detr import SetFocalLoss
    from detcli.recipe.sections.models.detr import SetSoftmaxLoss

__all__ = [
    "BOX_LOSSES",
    "KL",
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


def build_class_loss(
    options: AnyClassLoss | AnySoftmaxLoss | SetFocalLoss | SetSoftmaxLoss,
) -> ClassLoss | SoftmaxLoss:
    """The classification loss of this section of a recipe."""
    if options.name == "softmax":
        return SoftmaxLoss(Softmax(options.label_smoothing), options.weight)
    if options.name == "am_softmax":
        return SoftmaxLoss(AMSoftmax(options.margin, options.scale), options.weight)
    return ClassLoss(_formula(options), options.weight)


def _formula(options: AnyClassLoss | SetFocalLoss) -> Formula:
    if options.name == "focal":
        return Focal(options.alpha, options.gamma, options.label_smoothing)
    if options.name == "bce":
        return BinaryCrossEntropy(options.label_smoothing)
    if options.name == "varifocal":
        return Varifocal(options.negative_weight, options.gamma)
    return QualityFocal(options.gamma)


def build_side_loss(options: RegressionLoss) -> BoxLoss | KLLoss:
    """As `build_box_loss`, and "kl" for a head that predicts how uncertain each side is."""
    return KLLoss(options.weight) if options.name == KL else build_box_loss(options)


def build_box_loss(options: RegressionLoss) -> BoxLoss:
    """The box loss of this section of a recipe, with the one of form, beta and gamma that it has
    (the recipe sees to it that the others are not set)."""
    own = BOX_OPTIONS.get(options.name)
    terms = partial(BOX_LOSSES[options.name], **({own: getattr(options, own)} if own else {}))
    return BoxLoss(terms, on_boxes=options.name not in CODE_LOSSES, weight=options.weight)


def build_mining(options: Ohem) -> Mining:
    """The hard example mining of this section of a recipe."""
    if options.name == "hardest":
        return HardestNegatives(options.negatives_per_object, options.background_images)
    return RankWeights(options.power)
