"""The model section of ATSS."""

from typing import ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.losses import SideLoss
from detcli.recipe.sections.models.dense import Detector
from detcli.recipe.sections.priors import DELTA_STDS, Assigner, AtssAssigner, DeltaStds


class Atss(Detector):
    """ATSS (Zhang et al. 2020)."""

    chooser: ClassVar[str] = "regression"
    acts_with: ClassVar = {"delta_stds": ("box",)}

    name: Literal["atss"] = Field(description="ATSS")
    anchor_scale: float = Field(8.0, gt=0, description="Anchor size (square), in strides")
    assigner: Assigner = Field(AtssAssigner(name="atss"), description="Label assignment of anchors")
    delta_stds: DeltaStds = Field(
        DELTA_STDS, description="regression box: encoded offsets (x, y, w, h) are divided by these"
    )
    box_loss: SideLoss = Field(SideLoss(name="giou", weight=2.0), description="Box regression loss")
    centerness_weight: float = Field(1.0, gt=0, description="Weight of the centre-ness loss")
