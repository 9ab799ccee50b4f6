"""The parts of a detector's network: backbone, neck and head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.section import Section

NORM_GROUPS = 32  # of every group norm in a head


class Backbone(Section):
    """The network that reads the image."""

    name: Literal["resnet"] = Field("resnet", description="Family of the backbone")
    depth: Literal[18, 34, 50, 101] = Field(50, description="Number of weight layers")
    style: Literal["pytorch", "caffe"] = Field(
        "pytorch", description="Stride in the 3x3 convolution, or in the first 1x1 of a block"
    )
    norm: Literal["bn", "frozen_bn", "sync_bn", "gn"] = Field(
        "bn", description="Norm layers; frozen_bn: statistics, scales and shifts are constants"
    )
    norm_eval: bool = Field(
        True, description="Batch norms use their running statistics in training too"
    )
    norm_eps: float = Field(
        1e-5, ge=0, description="Added to the variance; 0 for torchvision's published RetinaNet"
    )
    frozen_stages: int = Field(
        1, ge=0, le=4, description="0: nothing is frozen; 1: stem and first stage; 4: everything"
    )
    weights: str | None = Field(
        "imagenet", min_length=1, description="imagenet (torchvision's), a file, or null: random"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.style == "caffe" and self.depth < 50:
            yield (
                "style",
                f"caffe concerns bottleneck blocks (depth 50, 101), depth is {self.depth}",
            )
        if self.weights != "imagenet":
            return
        if self.style == "caffe":
            yield "weights", "torchvision has no caffe-style weights: give a file, or null"
        if self.norm == "gn":
            yield "weights", "torchvision has no weights with group norm: give a file, or null"


class Neck(Section):
    """Feature pyramid (Lin et al. 2017). Level l has stride 2^l."""

    name: Literal["fpn"] = Field("fpn", description="Family of the neck")
    out_channels: int = Field(256, gt=0, description="Channels of every level")
    min_level: int = Field(3, ge=2, le=5, description="Finest level; 2 adds a head at stride 4")
    max_level: int = Field(7, ge=2, le=8, description="Coarsest level; above 5: extra convolutions")
    extra_from: Literal["c5", "p5"] = Field(
        "p5", description="P6 is made from the backbone's last map or from P5"
    )
    extra_relu: bool = Field(False, description="ReLU between P6 and P7")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.min_level > self.max_level:
            yield (
                "min_level",
                f"expected at most max_level ({self.max_level}), got {self.min_level}",
            )
        elif self.max_level < 5:
            yield "max_level", f"expected at least 5, the backbone's last, got {self.max_level}"


class Head(Section):
    """The convolutions of each branch, shared by all levels."""

    num_convs: int = Field(4, ge=0, description="3x3 convolutions before the prediction")
    norm: Literal["none", "gn"] = Field("gn", description="Norm after each of them")


class RetinaNetHead(Head):
    """As published: no norm."""

    norm: Literal["none", "gn"] = Field("none", description="Norm after each of them")


class FcosHead(Head):
    """The convolutions of each branch, shared by all levels."""

    conv_bias: bool = Field(False, description="Those convolutions have a bias beside the norm")
