"""The model section of VarifocalNet."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.losses import AnyClassLoss, BoxLoss, VarifocalLoss
from detcli.recipe.sections.models.dense import Dense
from detcli.recipe.sections.network import AnyNeck, Head, Neck
from detcli.recipe.sections.priors import Assigner, AtssAssigner


class VfnetHead(Head):
    """Convolution towers before the first box, shared by all levels."""

    num_convs: int = Field(3, ge=0, description="Number of 3x3 convolutions of each branch")
    deform_last: bool = Field(False, description="The last of them is deformable (DCNv2)")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.deform_last and (self.num_convs == 0 or self.conv != "plain"):
            yield "deform_last", "expected num_convs of 1 or more, and conv plain; remove it"


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
