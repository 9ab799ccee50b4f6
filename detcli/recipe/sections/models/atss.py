"""The model section of ATSS."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.losses import SideLoss
from detcli.recipe.sections.models.dense import Detector
from detcli.recipe.sections.priors import DELTA_STDS, Assigner, AtssAssigner, delta_problems
from detcli.recipe.sections.section import Quadruple


class Atss(Detector):
    """ATSS (Zhang et al. 2020)."""

    name: Literal["atss"] = Field(description="ATSS")
    anchor_scale: float = Field(8.0, gt=0, description="Anchor size (square), in strides")
    assigner: Assigner = Field(AtssAssigner(name="atss"), description="Label assignment of anchors")
    delta_stds: Quadruple = Field(
        DELTA_STDS, description="regression box: encoded offsets (x, y, w, h) are divided by these"
    )
    box_loss: SideLoss = Field(SideLoss(name="giou", weight=2.0), description="Box regression loss")
    centerness_weight: float = Field(1.0, gt=0, description="Weight of the centre-ness loss")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from delta_problems(self.delta_stds, self.regression)
