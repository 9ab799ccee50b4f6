"""Classification and regression losses, exchangeable in every detector."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from detcli.recipe.section import Section


class Ohem(Section):
    """Online hard example mining (Shrivastava et al. 2016), in each image."""

    name: Literal["hardest", "rank"] = Field(
        description="hardest: drop easy background; rank: weight by the rank of the loss"
    )
    negatives_per_object: float = Field(
        3.0, gt=0, description="hardest: samples of background kept for each sample of an object"
    )
    power: float = Field(
        1.0, gt=0, description="rank: weight (1 + power) (1 - r)^power, r 0 for the hardest, to 1"
    )
    acts_with: ClassVar = {"negatives_per_object": ("hardest",), "power": ("rank",)}


class ClassLoss(Section):
    """What every classification loss has."""

    weight: float = Field(1.0, gt=0, description="Multiple of the loss in the sum")
    ohem: Ohem | None = Field(None, description="Hard example mining; null: all samples alike")


class FocalLoss(ClassLoss):
    """Focal loss (Lin et al. 2017)."""

    name: Literal["focal"] = Field(description="Classification loss")
    alpha: float = Field(0.25, ge=0, le=1, description="Weight of the positives; 1 - alpha: others")
    gamma: float = Field(2.0, ge=0, description="How strongly easy examples are damped")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Samples of objects: targets 1 - this, and this elsewhere"
    )


class BceLoss(ClassLoss):
    """Binary cross entropy, every entry alike."""

    name: Literal["bce"] = Field(description="Classification loss")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Samples of objects: targets 1 - this, and this elsewhere"
    )


class VarifocalLoss(ClassLoss):
    """Varifocal loss (Zhang et al. 2021): the target is the IoU of the predicted box."""

    name: Literal["varifocal"] = Field(description="Classification loss")
    negative_weight: float = Field(
        0.75, ge=0, description="Factor of the negatives (the paper's alpha; not a share)"
    )
    gamma: float = Field(2.0, ge=0, description="How strongly easy negatives are damped")


class QualityFocalLoss(ClassLoss):
    """Quality focal loss (Li et al. 2020): the target is the IoU of the predicted box."""

    name: Literal["quality_focal"] = Field(description="Classification loss")
    gamma: float = Field(2.0, ge=0, description="Power of the distance to the target")


AnyClassLoss = Annotated[
    FocalLoss | BceLoss | VarifocalLoss | QualityFocalLoss, Field(discriminator="name")
]


class BoxLoss(Section):
    """Regression loss."""

    name: Literal["l1", "l2", "smooth_l1", "iou", "giou", "diou", "ciou", "eiou", "focal_eiou"] = (
        Field(description="l1, l2 and smooth_l1 on coded offsets, the others on decoded boxes")
    )
    form: Literal["log", "linear"] = Field("log", description="iou: -log IoU, or 1 - IoU")
    beta: float = Field(1 / 9, gt=0, description="smooth_l1: where the square ends")
    gamma: float = Field(
        0.5, gt=0, description="focal_eiou: power of the IoU that each box is weighted by"
    )
    small_box_factor: float | None = Field(
        None,
        gt=0,
        description="Weight of each box: this x (2 - w x h), w and h relative to the image; "
        "null: 1",
    )
    weight: float = Field(1.0, gt=0, description="Multiple of the loss in the sum")
    acts_with: ClassVar = {
        "form": ("iou",),
        "beta": ("smooth_l1",),
        "gamma": ("focal_eiou",),
    }
