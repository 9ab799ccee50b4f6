"""Classification and regression losses, exchangeable in every detector."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import PydanticCustomError

from detcli.recipe.sections.section import Section

# Annotated, because a bare dict[...] counts as a class in Python 3.10.
WeightsByName = Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Ohem(Section):
    """Online hard example mining per image (OHEM, Shrivastava et al. 2016)."""

    name: Literal["hardest", "rank"] = Field(
        description="hardest: online hard negative mining; rank: weight by the rank of the loss"
    )
    negatives_per_object: float = Field(
        3.0, gt=0, description="hardest: negatives kept per positive (negative:positive ratio)"
    )
    background_images: bool = Field(
        True,
        description="hardest: an image without positives keeps as many negatives as one with "
        "a single positive; false: none (SSD)",
    )
    power: float = Field(
        1.0, gt=0, description="rank: weight (1 + power) (1 - r)^power, r from 0 (hardest) to 1"
    )
    acts_with: ClassVar = {
        "negatives_per_object": ("hardest",),
        "background_images": ("hardest",),
        "power": ("rank",),
    }


class ClassLoss(Section):
    """What every classification loss has."""

    weight: float = Field(1.0, gt=0, description="Loss weight")
    ohem: Ohem | None = Field(None, description="Hard example mining; null: off")
    class_weights: Literal["inverse", "effective"] | WeightsByName | None = Field(
        None,
        description="Class weights: inverse frequency, inverse effective number "
        "(class-balanced loss, Cui et al. 2019), or {class name: weight}; scaled "
        "to a mean of 1",
    )
    class_beta: float = Field(
        0.999, gt=0, lt=1, description="effective: n objects count as (1 - beta^n) / (1 - beta)"
    )

    @field_validator("class_weights", mode="wrap")
    @classmethod
    def _one_message(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValueError:
            raise PydanticCustomError(
                "class_weights",
                "Input should be inverse, effective, or weights greater than 0 by class name",
            ) from None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.class_weights != "effective" and self.is_changed("class_beta"):
            yield "class_beta", "acts only with class_weights effective; remove it"


Smoothing = Annotated[
    float, Field(ge=0, lt=0.5, description="Label smoothing of positives: 1 - this, others this")
]


class FocalLoss(ClassLoss):
    """Focal loss (Lin et al. 2017)."""

    name: Literal["focal"] = Field(description="Classification loss")
    alpha: float = Field(0.25, ge=0, le=1, description="Weight of positives; negatives: 1 - alpha")
    gamma: float = Field(2.0, ge=0, description="Focal loss: down-weighting of easy examples")
    label_smoothing: Smoothing = 0.0


class BceLoss(ClassLoss):
    """Binary cross entropy without weights."""

    name: Literal["bce"] = Field(description="Classification loss")
    label_smoothing: Smoothing = 0.0


class VarifocalLoss(ClassLoss):
    """Varifocal loss (Zhang et al. 2021): the target is the IoU of the predicted box."""

    name: Literal["varifocal"] = Field(description="Classification loss")
    negative_weight: float = Field(
        0.75, ge=0, description="Weight of the negatives (alpha of the paper)"
    )
    gamma: float = Field(2.0, ge=0, description="Down-weighting of easy negatives")


class QualityFocalLoss(ClassLoss):
    """Quality focal loss (Li et al. 2020): the target is the IoU of the predicted box."""

    name: Literal["quality_focal"] = Field(description="Classification loss")
    gamma: float = Field(2.0, ge=0, description="Exponent of the distance to the quality target")


SSD_MINING = Ohem(name="hardest", background_images=False)


class SoftmaxLoss(ClassLoss):
    """Cross entropy of a soft-max over the classes and background (SSD, Liu et al. 2016)."""

    name: Literal["softmax"] = Field(description="Classification loss")
    ohem: Ohem | None = Field(SSD_MINING, description="Hard example mining; null: off")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Label smoothing of positives, spread over all classes"
    )


class AmSoftmaxLoss(ClassLoss):
    """Soft-max of cosines with an additive margin (AM-Softmax, Wang et al. 2018)."""

    name: Literal["am_softmax"] = Field(description="Classification loss")
    ohem: Ohem | None = Field(SSD_MINING, description="Hard example mining; null: off")
    margin: float = Field(
        0.35, ge=0, lt=2, description="Cosine margin by which the true class must exceed all others"
    )
    scale: float = Field(30.0, gt=0, description="Scale of the cosine logits")


AnySoftmaxLoss = Annotated[SoftmaxLoss | AmSoftmaxLoss, Field(discriminator="name")]
AnyClassLoss = Annotated[
    FocalLoss | BceLoss | VarifocalLoss | QualityFocalLoss, Field(discriminator="name")
]


BoxLossName = Literal["l1", "l2", "smooth_l1", "iou", "giou", "diou", "ciou", "eiou", "focal_eiou"]


class RegressionLoss(Section):
    """What every regression loss has."""

    name: str = Field(description="Box regression loss")
    form: Literal["log", "linear"] = Field("log", description="iou: -log(IoU), or 1 - IoU")
    beta: float = Field(1 / 9, gt=0, description="smooth_l1: transition from L2 to L1")
    gamma: float = Field(
        0.5, gt=0, description="focal_eiou: exponent of the IoU weight of each box"
    )
    small_box_factor: float | None = Field(
        None,
        gt=0,
        description="Box weight by size: this x (2 - w x h), w and h relative to the image; "
        "null: 1",
    )
    weight: float = Field(1.0, gt=0, description="Loss weight")
    acts_with: ClassVar = {"form": ("iou",), "beta": ("smooth_l1",), "gamma": ("focal_eiou",)}


class BoxLoss(RegressionLoss):
    """Box regression loss."""

    name: BoxLossName = Field(
        description="l1, l2 and smooth_l1 act on encoded offsets, the others on decoded boxes"
    )


class SideLoss(RegressionLoss):
    """Box regression loss of heads that can predict the uncertainty of each side."""

    name: Literal[BoxLossName, "kl"] = Field(
        description="l1, l2 and smooth_l1 act on encoded offsets, the others on decoded "
        "boxes; kl also predicts the uncertainty of each box side"
    )


class DensityBranch(Section):
    """Density branch: a predicted density for every box (Adaptive NMS, Liu et al. 2019)."""

    weight: float = Field(1.0, gt=0, description="Loss weight")


DensityOption = Annotated[
    DensityBranch | None,
    Field(description="Density branch: predicted overlap with other objects; null: off"),
]
