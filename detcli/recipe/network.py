"""The parts of a detector's network: backbone, neck and head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.blocks import Attention, Deformable, Dilation, Dropout
from detcli.recipe.section import Section

NORM_GROUPS = 32  # of every group norm in a head
IMAGE_NORMS = {"gn": "group", "ln": "layer", "in": "instance"}  # statistics of one image each
BOTTLENECK = 4  # times fewer channels inside a bottleneck
CONV_DIVISOR = {"grouped_shuffle": 4, "bottleneck": BOTTLENECK}  # of the channels, by kind

HeadNorm = Literal["none", "bn", "sync_bn", "gn", "ln", "in"]
ConvKind = Literal["plain", "rep", "depthwise", "grouped_shuffle", "bottleneck"]


class Backbone(Section):
    """The network that reads the image."""

    name: Literal["resnet"] = Field("resnet", description="Family of the backbone")
    depth: Literal[18, 34, 50, 101] = Field(50, description="Number of weight layers")
    style: Literal["pytorch", "caffe"] = Field(
        "pytorch", description="Stride in the 3x3 convolution, or in the first 1x1 of a block"
    )
    norm: Literal["bn", "frozen_bn", "sync_bn", "gn", "ln", "in"] = Field(
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
    attention: Attention | None = Field(None, description="Attention blocks; null: none")
    dcn: Deformable | None = Field(None, description="Deformable convolutions; null: none")
    dilation: Dilation | None = Field(None, description="Dilated convolutions; null: none")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.style == "caffe" and self.depth < 50:
            yield (
                "style",
                f"caffe concerns bottleneck blocks (depth 50, 101), depth is {self.depth}",
            )
        blocks = {"attention": self.attention, "dcn": self.dcn, "dilation": self.dilation}
        for key, block in blocks.items():
            if block is not None:
                for inner, message in block.misfits(self.depth, self.frozen_stages):
                    yield f"{key}.{inner}", message
        if self.weights != "imagenet":
            return
        if self.style == "caffe":
            yield "weights", "torchvision has no caffe-style weights: give a file, or null"
        if self.norm in IMAGE_NORMS:
            yield (
                "weights",
                f"torchvision has no weights with {IMAGE_NORMS[self.norm]} norm: give a file, or "
                "null",
            )


class Neck(Section):
    """Feature pyramid (Lin et al. 2017). Level l has stride 2^l."""

    name: Literal["fpn"] = Field("fpn", description="Family of the neck")
    out_channels: int = Field(256, gt=0, description="Channels of every level")
    min_level: int = Field(3, ge=2, le=5, description="Finest level; 2 adds a head at stride 4")
    max_level: int = Field(7, ge=2, le=8, description="Coarsest level; above 5: extra convolutions")
    extra_from: Literal["c5", "p5", "pool"] = Field(
        "p5", description="P6: convolution of the backbone's last map or of P5, or cells of P5"
    )
    extra_relu: bool = Field(False, description="ReLU between P6 and P7")
    upsample: Literal["nearest", "carafe"] = Field(
        "nearest", description="How a coarse map is enlarged for the next finer one"
    )
    conv: ConvKind = Field(
        "plain", description="Kind of the 3x3 convolutions that make P2 to P5; see docs/blocks.md"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.extra_relu and self.extra_from == "pool":
            yield "extra_relu", "with extra_from pool there are no extra convolutions; remove it"
        if self.upsample == "carafe" and self.min_level == 5:
            yield "upsample", "nothing is enlarged with min_level 5; remove it"
        if self.out_channels % CONV_DIVISOR.get(self.conv, 1):
            yield (
                "out_channels",
                f"conv {self.conv}: expected a multiple of {CONV_DIVISOR[self.conv]}, "
                f"got {self.out_channels}",
            )
        if self.min_level > self.max_level:
            yield (
                "min_level",
                f"expected at most max_level ({self.max_level}), got {self.min_level}",
            )
        elif self.max_level < 5:
            yield "max_level", f"expected at least 5, the backbone's last, got {self.max_level}"


class NasFcosNeck(Section):
    """The neck of NAS-FCOS (Wang et al. 2020), P3 and coarser."""

    name: Literal["nas_fcos"] = Field("nas_fcos", description="Family of the neck")
    out_channels: int = Field(
        256, gt=0, multiple_of=2, description="Channels of every level, half for each offset group"
    )
    max_level: int = Field(7, ge=5, le=8, description="Coarsest level; above 5: extra convolutions")


class Head(Section):
    """The convolutions of each branch, shared by all levels."""

    num_convs: int = Field(4, ge=0, description="3x3 convolutions before the prediction")
    norm: HeadNorm = Field("gn", description="Norm after each of them")
    conv: ConvKind = Field("plain", description="Kind of these convolutions; see docs/blocks.md")
    implicit: bool = Field(
        False, description="Learned vectors before and after each prediction (YOLOR)"
    )
    dropout: Dropout | None = Field(
        None, description="Noise after the last norm, before the predictions; null: none"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.conv != "plain" and self.num_convs == 0:
            yield "conv", "there is no such convolution with num_convs 0; remove it"
        if self.conv == "rep" and self.norm != "none":
            yield "norm", f"conv rep has batch norms of its own: expected none, got {self.norm}"


class RetinaNetHead(Head):
    """As published: no norm."""

    norm: HeadNorm = Field("none", description="Norm after each of them")


class FcosHead(Head):
    """The convolutions of each branch, shared by all levels."""

    conv_bias: bool = Field(False, description="Those convolutions have a bias beside the norm")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.conv == "rep" and self.conv_bias:
            yield "conv_bias", "conv rep has no bias beside its norms; remove it"


class VfnetHead(Head):
    """The convolutions of each branch before the first box, shared by all levels."""

    num_convs: int = Field(3, ge=0, description="3x3 convolutions of each branch")
    deform_last: bool = Field(False, description="The last of them is deformable (DCNv2)")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.deform_last and (self.num_convs == 0 or self.conv != "plain"):
            yield "deform_last", "expected num_convs of 1 or more, and conv plain; remove it"


class SearchedHead(Section):
    """The branches that NAS-FCOS's search found, shared by all levels."""

    norm: HeadNorm = Field("gn", description="Norm after each convolution")
    implicit: bool = Field(
        False, description="Learned vectors before and after each prediction (YOLOR)"
    )
    dropout: Dropout | None = Field(
        None, description="Noise after the last norm, before the predictions; null: none"
    )
