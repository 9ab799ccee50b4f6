"""What a detector can be given in addition to its plain layers, each with a switch of its own."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.section import SOME, Integers, Named, Section, rule

STAGE_CHANNELS = (64, 128, 256, 512)  # of the 3x3 convolutions of a ResNet's stages
STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK_DEPTHS = (50, 101)  # with four times as many channels at the end of a block
EXPANSION = 4
NORM_GROUPS = 32  # of every group norm

Stages = Annotated[
    tuple[Literal[1, 2, 3, 4], ...],
    Field(strict=False, min_length=1, description="Backbone stages, from 1 to 4"),
    rule(lambda stages: len(set(stages)) == len(stages), "each stage once"),
]
Rates = Annotated[Integers, SOME, rule(lambda rates: min(rates) >= 1, "numbers of 1 or more")]


class StageBlocks(Section):
    """A block in some stages of a backbone."""

    stages: Stages = (2, 3, 4)

    @property
    def where(self) -> str:
        """The stages, for the log."""
        return f"stage{'s' if len(self.stages) > 1 else ''} {', '.join(map(str, self.stages))}"

    def misfits(self, depth: int, frozen_stages: int) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong) for every rule that a backbone breaks."""
        first = min(self.stages)
        if first <= frozen_stages:
            yield "stages", f"stage {first} is frozen (frozen_stages {frozen_stages}); leave it out"


class Attention(StageBlocks):
    """Attention block at the end of each residual branch, before the shortcut is added."""

    name: Literal["se", "cbam", "gc"] = Field(
        description="se: squeeze-and-excitation; cbam: channel and spatial attention; gc: "
        "global context"
    )
    reduction: int = Field(16, gt=0, description="Channel reduction ratio inside the block")
    fusion: Literal["add", "mul_add"] = Field(
        "add", description="gc: add the context, or also scale the channels by it before"
    )
    acts_with: ClassVar = {"fusion": ("gc",)}

    def announce(self, named: Named) -> Iterator[str]:
        yield f"attention {self.name}: {self.where}, {_fresh(*named('attention'))}"

    def misfits(self, depth: int, frozen_stages: int) -> Iterator[tuple[str, str]]:
        yield from super().misfits(depth, frozen_stages)
        expansion = EXPANSION if depth in BOTTLENECK_DEPTHS else 1
        channels = expansion * STAGE_CHANNELS[min(self.stages) - 1]
        if channels % self.reduction:
            yield "reduction", f"expected a divisor of {channels} channels, got {self.reduction}"


class Deformable(StageBlocks):
    """Deformable 3x3 convolutions (Dai et al. 2017, Zhu et al. 2019)."""

    version: Literal[1, 2] = Field(2, description="DCN 1: learned offsets; 2: and modulation")
    groups: int = Field(1, gt=0, description="Groups of channels with their own offsets")

    def announce(self, named: Named) -> Iterator[str]:
        fresh = _fresh(*named("conv_offset"))
        yield f"deformable convolutions v{self.version}: {self.where}, {fresh}"

    def misfits(self, depth: int, frozen_stages: int) -> Iterator[tuple[str, str]]:
        yield from super().misfits(depth, frozen_stages)
        channels = STAGE_CHANNELS[min(self.stages) - 1]
        if channels % self.groups:
            yield "groups", f"expected a divisor of {channels} channels, got {self.groups}"


class Dilation(StageBlocks):
    """Dilated (atrous) 3x3 convolutions; the strides stay as they are."""

    stages: Stages = (4,)
    rates: Rates = Field((1, 2, 5), description="Dilation rates of the blocks of a stage, in turn")

    def announce(self, named: Named) -> Iterator[str]:
        rates = ", ".join(map(str, self.rates))
        yield f"dilation: {self.where}, {rates} in turn; strides stay as they are"

    def misfits(self, depth: int, frozen_stages: int) -> Iterator[tuple[str, str]]:
        yield from super().misfits(depth, frozen_stages)
        for stage in self.stages:
            used = self.rates[: STAGE_BLOCKS[depth][stage - 1]]
            if max(used) == 1:
                yield "rates", f"all blocks of stage {stage} would have dilation 1; leave it out"


class Aspp(Section):
    """Atrous spatial pyramid pooling of the coarsest feature map (Chen et al. 2017)."""

    rates: Rates = Field((6, 12, 18), description="Dilation rate of each 3x3 (atrous) convolution")
    channels: int = Field(256, gt=0, description="Channels of each branch and of the fused output")
    norm: Literal["bn", "sync_bn", "gn"] = Field("gn", description="Norm after every convolution")
    batch_norms: ClassVar = ("norm",)

    def problems(self) -> Iterator[tuple[str, str]]:
        if reason := misgrouped(self.norm, self.channels):
            yield "channels", reason

    def announce(self, named: Named) -> Iterator[str]:
        rates = ", ".join(map(str, self.rates))
        yield f"neck: ASPP on C5, dilations {rates}, norm {self.norm}"


def misgrouped(norm: str, channels: int) -> str | None:
    """Why a group norm cannot have this many channels; None where it can, and of other norms."""
    if norm == "gn" and (channels % NORM_GROUPS or channels == NORM_GROUPS):
        return (
            f"norm gn has {NORM_GROUPS} groups of 2 or more channels: expected a multiple of "
            f"{NORM_GROUPS} from {2 * NORM_GROUPS} on, got {channels}"
        )
    return None


class Dropout(Section):
    """Dropout on the features before each prediction, in training."""

    name: Literal["bernoulli", "gaussian", "uniform"] = Field(
        description="bernoulli: zeros; gaussian: normal noise of the same variance; uniform: "
        "around 1"
    )
    rate: float = Field(
        0.1, gt=0, lt=1, description="bernoulli: drop probability; gaussian: variance rate/(1-rate)"
    )
    beta: float = Field(0.1, gt=0, le=1, description="uniform: values are 1 - beta to 1 + beta")
    acts_with: ClassVar = {"rate": ("bernoulli", "gaussian"), "beta": ("uniform",)}

    def announce(self, named: Named) -> Iterator[str]:
        how = f"beta {self.beta}" if self.name == "uniform" else f"rate {self.rate}"
        yield f"dropout {self.name}, {how}: on the features before each prediction, in training"


def _fresh(count: int, parameters: int) -> str:
    return f"{count} of them; their {parameters} parameters are randomly initialised"
