"""The `model` section of CenterNet."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detcli.recipe.sections.network import Backbone, TimmBackbone
from detcli.recipe.sections.section import Integers, Named, Section


class CenterBackbone(Backbone):
    """ResNet with the defaults of CenterNet: all of it learns, the norms' statistics too."""

    depth: Literal[18, 34, 50, 101] = Field(18, description="Number of weight layers")
    norm_eval: bool = Field(
        False, description="Batch norms use their running statistics in training too"
    )
    frozen_stages: int = Field(
        0, ge=0, le=4, description="0: nothing is frozen; 1: stem and first stage; 4: everything"
    )


class DlaBackbone(Section):
    """DLA-34 (Yu et al. 2018)."""

    name: Literal["dla34"] = Field(description="Family of the backbone")
    norm: Literal["bn", "sync_bn"] = Field("bn", description="Norm layers")
    weights: str | None = Field(
        None, min_length=1, description="A file with the authors' names, or null: random"
    )


class DeconvNeck(Section):
    """Transposed convolutions, each of which doubles the size of the map."""

    name: Literal["deconv"] = Field(description="Family of the neck")
    channels: Integers = Field((256, 128, 64), min_length=1, description="Channels of each step")
    conv: Literal["plain", "dcn"] = Field(
        "plain", description="The 3x3 convolution before each; dcn: modulated deformable (v2)"
    )
    conv_bias: bool = Field(False, description="Those have a bias beside the norm")
    norm: Literal["bn", "sync_bn"] = Field("bn", description="Norm after every convolution")

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.channels) < 1:
            yield "channels", f"expected numbers greater than 0, got {list(self.channels)}"

    def announce(self, named: Named) -> Iterator[str]:
        if self.conv != "plain":
            yield f"neck outputs: {self.conv} convolutions"


class DlaUpNeck(Section):
    """Iterative deep aggregation with deformable convolutions, for DLA-34."""

    name: Literal["dla_up"] = Field(description="Family of the neck")
    norm: Literal["bn", "sync_bn"] = Field("bn", description="Norm after every 3x3 convolution")


class CenterHead(Section):
    """The three branches."""

    channels: int = Field(64, gt=0, description="Channels between its two convolutions")


class CenterAssigner(Section):
    """Gaussian peaks at the objects' centres."""

    name: Literal["center"] = Field("center", description="Assignment rule")
    radius: Literal["corrected", "cornernet"] = Field(
        "corrected", description="Roots of its equations, or as CornerNet's code has them"
    )
    min_overlap: float = Field(
        0.3, gt=0, lt=1, description="IoU that a box whose corners move by the radius still has"
    )
    whole_cells: bool = Field(False, description="Sides are rounded up before the radius is taken")
    shared_cells: Literal["last", "all"] = Field(
        "last", description="Which of several objects is regressed whose centres share a cell"
    )


class CenterLoss(Section):
    """Focal loss of heat maps (CornerNet, Law and Deng 2018)."""

    name: Literal["gaussian_focal"] = Field("gaussian_focal", description="Classification loss")
    alpha: float = Field(2.0, ge=0, description="How strongly easy cells are damped")
    beta: float = Field(4.0, ge=0, description="How strongly cells near a centre are damped")
    min_probability: float = Field(
        0.0, ge=0, lt=0.5, description="Scores learn only above this and below 1 - this; 0: always"
    )
    weight: float = Field(1.0, gt=0, description="Multiple of the loss in the sum")


class CenterNet(Section):
    """CenterNet (Zhou et al. 2019)."""

    name: Literal["centernet"] = Field(description="CenterNet")
    backbone: Annotated[
        CenterBackbone | DlaBackbone | TimmBackbone, Field(discriminator="name")
    ] = Field(CenterBackbone(name="resnet"), description="The network that reads the image")
    neck: Annotated[DeconvNeck | DlaUpNeck, Field(discriminator="name")] = Field(
        DeconvNeck(name="deconv"), description="What leads back to one fine map"
    )
    head: CenterHead = Field(CenterHead(), description="The branches")
    assigner: CenterAssigner = Field(
        CenterAssigner(), description="What the heat maps should be for the objects"
    )
    class_loss: CenterLoss = Field(CenterLoss(), description="Classification loss")
    size_weight: float = Field(0.1, gt=0, description="Multiple of the L1 loss of width and height")
    offset_weight: float = Field(
        1.0, gt=0, description="Multiple of the L1 loss of the centre's place in its cell"
    )
    score_threshold: float = Field(
        0.0, ge=0, lt=1, description="Candidates must have a higher class score"
    )
    topk_per_level: int = Field(100, gt=0, description="Best peaks kept")

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.backbone.name == "dla34") != (self.neck.name == "dla_up"):
            yield (
                "neck.name",
                f"dla_up and backbone dla34 go together, but backbone is {self.backbone.name} and "
                f"neck is {self.neck.name}",
            )
