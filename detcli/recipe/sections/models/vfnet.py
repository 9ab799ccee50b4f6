"""The model section of VarifocalNet."""

from typing import Literal

from pydantic import Field

from detcli.recipe.sections.losses import (
    AnyClassLoss,
    BoxLoss,
    VarifocalLoss,
)
from detcli.recipe.sections.models.dense import Dense
from detcli.recipe.sections.network import (
    AnyNeck,
    Neck,
    VfnetHead,
)
from detcli.recipe.sections.priors import (
    Assigner,
    AtssAssigner,
)


class Vfnet(Dense):
    """VarifocalNet (Zhang et al. 2021)."""

    name: Literal["vfnet"] = Field(description="VarifocalNet")
    neck: AnyNeck = Field(Neck(extra_relu=True), description="The feature pyramid")
    head: VfnetHead = Field(VfnetHead(), description="The branches")
    anchor_scale: float = Field(
        8.0, gt=0, description="Side of the square box, in strides, that the assigner looks at"
    )
    assigner: Assigner = Field(
        AtssAssigner(name="atss"), description="Which points learn which object"
    )
    class_loss: AnyClassLoss = Field(
        VarifocalLoss(name="varifocal"), description="Classification loss"
    )
    box_loss: BoxLoss = Field(
        BoxLoss(name="giou", weight=2.0), description="Regression loss of the refined box"
    )
    first_box_weight: float = Field(
        1.5, gt=0, description="Multiple of the same loss of the box before refining"
    )
