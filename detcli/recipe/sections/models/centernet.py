"""The `model` section of CenterNet."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detcli.recipe.sections.network import (
    AuthorsWeights,
    Backbone,
    FrozenStages,
    NormEval,
    TimmBackbone,
)
from detcli.recipe.sections.section import Named, PositiveIntegers, ScoreThreshold, Section


class CenterBackbone(Backbone):
    """ResNet with CenterNet's defaults: nothing is frozen, batch norms included."""

    depth: Literal[18, 34, 50, 101] = Field(18, description="Depth: number of weight layers")
    norm_eval: NormEval = False
    frozen_stages: FrozenStages = 0


class DlaBackbone(Section):
    """DLA-34 (Yu et al. 2018)."""

    name: Literal["dla34"] = Field(description="Backbone type")
    norm: Literal["bn", "sync_bn"] = Field("bn", description="Normalisation layers")
    weights: AuthorsWeights = None


class DeconvNeck(Section):
    """Transposed convolutions (deconvolutions), each of which upsamples by 2."""

    name: Literal["deconv"] = Field(description="Neck type")
    channels: PositiveIntegers = Field((256, 128, 64), description="Channels of each step")
    conv: Literal["plain", "dcn"] = Field(
        "plain", description="3x3 convolution before each step; dcn: modulated deformable (DCNv2)"
    )
    conv_bias: bool = Field(False, description="Bias in addition to the norm")
    norm: Literal["bn", "sync_bn"] = Field("bn", description="Norm after every convolution")

    def announce(self, named: Named) -> Iterator[str]:
        if self.conv != "plain":
            yield f"neck outputs: {self.conv} convolutions"


class DlaUpNeck(Section):
    """Iterative deep aggregation with deformable convolutions, for DLA-34."""

    name: Literal["dla_up"] = Field(description="Neck type")
    norm: Literal["bn", "sync_bn"] = Field("bn", description="Norm after every 3x3 convolution")


class CenterHead(Section):
    """Heat map, size and offset heads."""

    channels: int = Field(64, gt=0, description="Hidden channels between its two convolutions")


class CenterAssigner(Section):
    """Gaussian peaks at the objects' centres."""

    name: Literal["center"] = Field("center", description="Label assignment method")
    radius: Literal["corrected", "cornernet"] = Field(
        "corrected", description="Gaussian radius: corrected, or that of CornerNet's code"
    )
    min_overlap: float = Field(
        0.3, gt=0, lt=1, description="IoU of a box whose corners are shifted by the radius"
    )
    whole_cells: bool = Field(False, description="Round box sides up before computing the radius")
    shared_cells: Literal["last", "all"] = Field(
        "last", description="Which object to regress when several centres fall into one cell"
    )


class CenterLoss(Section):
    """Focal loss of heat maps (CornerNet, Law and Deng 2018)."""

    name: Literal["gaussian_focal"] = Field("gaussian_focal", description="Classification loss")
    alpha: float = Field(2.0, ge=0, description="Down-weighting of easy cells")
    beta: float = Field(4.0, ge=0, description="Down-weighting of negatives near a centre")
    min_probability: float = Field(
        0.0, ge=0, lt=0.5, description="Scores have gradients above this, below 1 - this; 0: all"
    )
    weight: float = Field(1.0, gt=0, description="Loss weight")


class CenterNet(Section):
    """CenterNet (Zhou et al. 2019)."""

    name: Literal["centernet"] = Field(description="CenterNet")
    backbone: Annotated[
        CenterBackbone | DlaBackbone | TimmBackbone, Field(discriminator="name")
    ] = Field(CenterBackbone(name="resnet"), description="Backbone network")
    neck: Annotated[DeconvNeck | DlaUpNeck, Field(discriminator="name")] = Field(
        DeconvNeck(name="deconv"), description="Neck: upsampling to one fine feature map"
    )
    head: CenterHead = Field(CenterHead(), description="Prediction head")
    assigner: CenterAssigner = Field(
        CenterAssigner(), description="Label assignment: Gaussian heat map targets"
    )
    class_loss: CenterLoss = Field(CenterLoss(), description="Classification loss")
    size_weight: float = Field(0.1, gt=0, description="Weight of the L1 loss of width and height")
    offset_weight: float = Field(
        1.0, gt=0, description="Weight of the L1 loss of the centre offset"
    )
    score_threshold: ScoreThreshold = 0.0
    topk_per_level: int = Field(100, gt=0, description="Number of heat map peaks kept (top k)")

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.backbone.name == "dla34") != (self.neck.name == "dla_up"):
            yield (
                "neck.name",
                f"dla_up and backbone dla34 go together, but backbone is {self.backbone.name} and "
                f"neck is {self.neck.name}",
            )
