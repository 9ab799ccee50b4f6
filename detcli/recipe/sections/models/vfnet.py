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
    neck: AnyNeck = Field(Neck(extra_relu=True), description="Neck: feature pyramid")
    head: VfnetHead = Field(VfnetHead(), description="Prediction head")
    anchor_scale: float = Field(
        8.0, gt=0, description="Anchor size (square), in strides, for label assignment"
    )
    assigner: Assigner = Field(AtssAssigner(name="atss"), description="Label assignment of points")
    class_loss: AnyClassLoss = Field(
        VarifocalLoss(name="varifocal"), description="Classification loss"
    )
    box_loss: BoxLoss = Field(
        BoxLoss(name="giou", weight=2.0), description="Box regression loss of the refined box"
    )
    first_box_weight: float = Field(
        1.5, gt=0, description="Weight of the same loss for the box before refinement"
    )
