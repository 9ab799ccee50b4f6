"""The parts of a detector's network: backbone, neck and head."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.blocks import Aspp, Attention, Deformable, Dilation, Dropout, misgrouped
from detcli.recipe.sections.section import Named, Section

IMAGE_NORMS = {"gn": "group", "ln": "layer", "in": "instance"}  # statistics of one image each
BOTTLENECK = 4  # times fewer channels inside a bottleneck
CONV_DIVISOR = {"grouped_shuffle": 4, "bottleneck": BOTTLENECK}  # of the channels, by kind

BackboneNorm = Annotated[
    Literal["bn", "frozen_bn", "sync_bn", "gn", "ln", "in"],
    Field(description="Normalisation layers; frozen_bn: constant statistics, scale and shift"),
]
NormEval = Annotated[
    bool, Field(description="Batch norms stay in eval mode (running statistics) in training")
]
FrozenStages = Annotated[
    int,
    Field(ge=0, le=4, description="0: nothing is frozen; 1: stem and first stage; 4: all stages"),
]
AuthorsWeights = Annotated[
    str | None, Field(min_length=1, description="Checkpoint of the authors, or null: random")
]
ExtraFrom = Annotated[
    Literal["c5", "p5", "pool"],
    Field(description="P6: convolution of C5 or of P5, or subsampled P5"),
]
Implicit = Annotated[
    bool, Field(description="Implicit knowledge (YOLOR) before and after each prediction")
]
HeadDropout = Annotated[
    Dropout | None,
    Field(description="Dropout after the last norm, before the predictions; null: none"),
]
HeadNorm = Literal["none", "bn", "sync_bn", "gn", "ln", "in"]
ConvKind = Literal["plain", "rep", "depthwise", "grouped_shuffle", "bottleneck"]


class Backbone(Section):
    """Backbone: ResNet."""

    name: Literal["resnet"] = Field("resnet", description="Backbone type")
    depth: Literal[18, 34, 50, 101] = Field(50, description="Depth: number of weight layers")
    style: Literal["pytorch", "caffe"] = Field(
        "pytorch", description="Stride in the 3x3 convolution of a block, or in its first 1x1"
    )
    norm: BackboneNorm = "bn"
    norm_eval: NormEval = True
    norm_eps: float = Field(
        1e-5, ge=0, description="Epsilon of the norms; 0 for torchvision's published RetinaNet"
    )
    frozen_stages: FrozenStages = 1
    weights: str | None = Field(
        "imagenet", min_length=1, description="imagenet (torchvision's), a file, or null: random"
    )
    attention: Attention | None = Field(None, description="Attention blocks; null: none")
    dcn: Deformable | None = Field(None, description="Deformable convolutions; null: none")
    dilation: Dilation | None = Field(None, description="Dilated convolutions; null: none")
    units: Literal["post", "pre"] = Field(
        "post", description="Norm and ReLU after each convolution, or before it (pre-activation)"
    )

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
        if self.units == "pre" and self.weights is not None:
            yield "weights", "there are none with pre-activation units: expected null"
        if self.weights != "imagenet" or self.units == "pre":
            return
        if self.style == "caffe":
            yield "weights", "torchvision has no caffe-style weights: give a file, or null"
        if self.norm in IMAGE_NORMS:
            yield (
                "weights",
                f"torchvision has no weights with {IMAGE_NORMS[self.norm]} norm: give a file, or "
                "null",
            )

    def announce(self, named: Named) -> Iterator[str]:
        if self.units == "pre":
            yield "backbone: pre-activation, norm and ReLU before each convolution"


class TimmBackbone(Section):
    """Backbone from timm: pip install 'detcli[timm]'."""

    name: Literal["timm"] = Field(description="Backbone type")
    model: str = Field(min_length=1, description="Name in timm, such as resnet50.a1_in1k")
    norm_eval: NormEval = True
    frozen_stages: int = Field(
        1,
        ge=0,
        le=4,
        description="0: nothing is frozen; 1: up to the feature map at stride 4; 4: all",
    )
    weights: str | None = Field(
        "imagenet", min_length=1, description="imagenet (timm's), a file, or null: random"
    )


AnyBackbone = Annotated[Backbone | TimmBackbone, Field(discriminator="name")]


class Levels(Section):
    """The levels of a feature pyramid. Level l has stride 2^l."""

    name: str = Field(description="Neck type")
    out_channels: int = Field(256, gt=0, description="Channels of every level")
    min_level: int = Field(3, ge=2, le=5, description="Finest level; 2 adds a head at stride 4")
    max_level: int = Field(7, ge=2, le=8, description="Coarsest level; above 5: extra convolutions")
    at_most: ClassVar = {"min_level": "max_level"}

    @property
    def num_levels(self) -> int:
        return self.max_level - self.min_level + 1

    @property
    def num_steps(self) -> int:
        """From each level that the backbone has too to the next."""
        return 5 - self.min_level

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.min_level <= self.max_level < 5:
            yield "max_level", f"expected at least 5, the backbone's last, got {self.max_level}"


class ExtraLevels(Levels):
    """A pyramid whose levels above 5 come from P5 or the backbone's C5."""

    extra_from: ExtraFrom = "p5"
    extra_relu: bool = Field(False, description="ReLU between P6 and P7")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.extra_relu and self.extra_from == "pool":
            yield "extra_relu", "with extra_from pool there are no extra convolutions; remove it"
        yield from super().problems()


class TopDown(ExtraLevels):
    """What pyramids with a top-down path have."""

    upsample: Literal["nearest", "carafe", "duc"] = Field(
        "nearest", description="Upsampling to the next finer level"
    )
    conv: ConvKind = Field(
        "plain", description="Type of the 3x3 output convolutions (P2 to P5); see docs/blocks.md"
    )
    aspp: Aspp | None = Field(
        None, description="ASPP (atrous spatial pyramid pooling) on C5; null: off"
    )
    batch_norms: ClassVar = ("conv",)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.upsample != "nearest" and self.min_level == 5:
            yield "upsample", "nothing is upsampled with min_level 5; remove it"
        if self.out_channels % CONV_DIVISOR.get(self.conv, 1):
            yield (
                "out_channels",
                f"conv {self.conv}: expected a multiple of {CONV_DIVISOR[self.conv]}, "
                f"got {self.out_channels}",
            )
        yield from super().problems()

    def announce(self, named: Named) -> Iterator[str]:
        if self.conv != "plain":
            yield f"neck outputs: {self.conv} convolutions"
        if self.upsample != "nearest":
            yield f"neck: {self.num_steps} upsampling steps by {self.upsample.upper()}"


class Neck(TopDown):
    """Feature pyramid network (FPN, Lin et al. 2017). Level l has stride 2^l."""

    name: Literal["fpn"] = Field("fpn", description="Neck type")


class PanNeck(TopDown):
    """PAN: FPN with a bottom-up path (PANet, Liu et al. 2018)."""

    name: Literal["pan"] = Field(description="Neck type")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.min_level == 5:
            yield "name", "pan has no path from level 5 to itself: take fpn, or min_level 4 or less"

    def announce(self, named: Named) -> Iterator[str]:
        yield from super().announce(named)
        yield f"neck pan: bottom-up path of {self.num_steps} steps"


class BifpnNeck(Levels):
    """BiFPN: weighted top-down and bottom-up fusion (Tan et al. 2020)."""

    name: Literal["bifpn"] = Field(description="Neck type")
    repeats: int = Field(3, gt=0, description="Number of top-down and bottom-up fusion rounds")
    norm: Literal["bn", "sync_bn", "gn"] = Field("bn", description="Norm after every convolution")
    batch_norms: ClassVar = ("norm",)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.num_levels == 1:
            yield "min_level", "bifpn fuses two or more levels, got 1"
        if reason := misgrouped(self.norm, self.out_channels):
            yield "out_channels", reason

    def announce(self, named: Named) -> Iterator[str]:
        levels = f"{self.num_levels} levels fused {self.repeats} times"
        yield f"neck bifpn: {levels}, norm {self.norm}"


class Nested(ExtraLevels):
    """UNet++: nested fusion with dense skip connections (Zhou et al. 2018)."""

    norm: Literal["none", "bn", "sync_bn", "gn"] = Field(
        "gn", description="Normalisation after the convolution of every node"
    )
    batch_norms: ClassVar = ("norm",)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.min_level == 5:
            yield "min_level", "unet_pp fuses two or more of C2 to C5, got C5 alone"
        if reason := misgrouped(self.norm, self.out_channels):
            yield "out_channels", reason

    def announce(self, named: Named) -> Iterator[str]:
        yield f"neck unet_pp: {self.num_steps} columns of nested nodes, norm {self.norm}"


class NestedNeck(Nested):
    """UNet++: nested fusion with dense skip connections (Zhou et al. 2018)."""

    name: Literal["unet_pp"] = Field(description="Neck type")
    deep_supervision: bool = Field(
        False,
        description="Deep supervision: training losses are averaged over the pyramids of all "
        "columns",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.deep_supervision and self.min_level > 3:
            yield (
                "deep_supervision",
                f"with min_level {self.min_level} there is one column only; set it to false",
            )

    def recipe_problems(self, recipe: Any, key: str) -> Iterator[tuple[str, str]]:
        if self.deep_supervision and recipe.train.distill is not None:
            yield (
                f"{key}.deep_supervision",
                "gives several pyramids of each image, a teacher one: expected false with "
                "train.distill",
            )

    def announce(self, named: Named) -> Iterator[str]:
        yield from super().announce(named)
        if self.deep_supervision:
            pyramids = f"{self.num_steps} pyramids"
            yield f"deep supervision: training losses are averaged over {pyramids}"


AnyNeck = Annotated[Neck | PanNeck | BifpnNeck | NestedNeck, Field(discriminator="name")]


class NasFcosNeck(Section):
    """The neck of NAS-FCOS (Wang et al. 2020), P3 and coarser."""

    name: Literal["nas_fcos"] = Field("nas_fcos", description="Neck type")
    out_channels: int = Field(
        256, gt=0, multiple_of=2, description="Channels of every level, half for each offset group"
    )
    max_level: int = Field(7, ge=5, le=8, description="Coarsest level; above 5: extra convolutions")


class Head(Section):
    """Convolution towers of the head, shared by all levels."""

    num_convs: int = Field(4, ge=0, description="Number of 3x3 convolutions before the prediction")
    norm: HeadNorm = Field("gn", description="Normalisation after each of them")
    conv: ConvKind = Field("plain", description="Type of these convolutions; see docs/blocks.md")
    implicit: Implicit = False
    dropout: HeadDropout = None
    batch_norms: ClassVar = ("norm", "conv")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.conv != "plain" and self.num_convs == 0:
            yield "conv", "there is no such convolution with num_convs 0; remove it"
        if self.conv == "rep" and self.norm != "none":
            yield "norm", f"conv rep has batch norms of its own: expected none, got {self.norm}"

    def announce(self, named: Named) -> Iterator[str]:
        yield from _announce_branches(self, named)
        if self.conv != "plain":
            yield f"head: {self.conv} convolutions"
        if self.conv == "rep":
            yield (
                "model.head.conv rep: all levels share one set of running statistics, with which "
                "evaluation can be far worse than training; model.neck.conv rep has one for each "
                "level"
            )


class RetinaNetHead(Head):
    """Convolution towers without norm, as published."""

    norm: HeadNorm = Field("none", description="Normalisation after each of them")


class SearchedHead(Section):
    """Searched head of NAS-FCOS, shared by all levels."""

    norm: HeadNorm = Field("gn", description="Normalisation after each convolution")
    implicit: Implicit = False
    dropout: HeadDropout = None
    batch_norms: ClassVar = ("norm",)

    def announce(self, named: Named) -> Iterator[str]:
        return _announce_branches(self, named)


def _announce_branches(head: Head | SearchedHead, named: Named) -> Iterator[str]:
    if head.norm in ("bn", "sync_bn"):
        yield f"model.head.norm {head.norm}: all levels share one set of running statistics"
    if head.implicit:
        count, _ = named("multiply")
        yield f"implicit knowledge: around {count} predictions, never decayed"
