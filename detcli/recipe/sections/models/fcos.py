"""The model section of FCOS."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.losses import SideLoss
from detcli.recipe.sections.models.dense import Detector
from detcli.recipe.sections.network import Head
from detcli.recipe.sections.priors import (
    DELTA_STDS,
    Assigner,
    DeltaStds,
    FcosAssigner,
    FitGrid,
    ReferenceScale,
    Regression,
)


class FcosHead(Head):
    """Convolution towers of the head, shared by all levels."""

    conv_bias: bool = Field(False, description="Bias in addition to the norm")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.conv == "rep" and self.conv_bias:
            yield "conv_bias", "conv rep has no bias in addition to its norms; remove it"


class Fcos(Detector):
    """FCOS (Tian et al. 2019)."""

    chooser: ClassVar[str] = "regression"
    acts_with: ClassVar = {"delta_stds": ("box",)}

    name: Literal["fcos"] = Field(description="FCOS")
    head: FcosHead = Field(FcosHead(), description="Prediction head")
    assigner: Assigner = Field(FcosAssigner(name="fcos"), description="Label assignment of points")
    regression: Regression = "point"
    box_loss: SideLoss = Field(SideLoss(name="iou"), description="Box regression loss")
    centerness_weight: float = Field(1.0, gt=0, description="Weight of the centre-ness loss")
    centerness_on: Literal["class", "box"] = Field(
        "class", description="Branch that predicts the centre-ness"
    )
    stride_units: bool = Field(
        False, description="Distances are ReLU outputs in strides; false: exp outputs in pixels"
    )
    anchor_scale: ReferenceScale = 8.0
    delta_stds: DeltaStds = Field(
        DELTA_STDS, description="regression box: encoded offsets are divided by these"
    )
    point_offset: float = Field(
        0.5, ge=0, lt=1, description="Position of the point within its cell, in strides"
    )
    fit_grid: FitGrid = False
    score: Literal["product", "sqrt_product"] = Field(
        "product",
        description="Class score x centre-ness, after the score threshold, or its square "
        "root, before it",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.regression == "box" and self.stride_units:
            yield "stride_units", "acts only with regression point, but regression is box"
