"""The `model` section of SSD, whose network and anchors no other detector shares."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.losses import AnySoftmaxLoss, BoxLoss, SoftmaxLoss
from detcli.recipe.sections.priors import (
    DELTA_STDS,
    Assigner,
    DeltaStds,
    EnlargeSmall,
    MaxIouAssigner,
    Regression,
)
from detcli.recipe.sections.section import (
    SOME,
    Integers,
    Numbers,
    PositiveIntegers,
    ScoreThreshold,
    Section,
    SizesPerLevel,
    rule,
)

BACKBONE_LEVELS = 2  # conv4_3 and fc7
EVEN = rule(
    lambda widths: min(widths) > 1 and not any(w % 2 for w in widths), "even numbers from 2 on"
)
RISING = rule(
    lambda sizes: all(a < b for a, b in pairwise((0, *sizes))), "rising numbers greater than 0"
)
FROM_ZERO = rule(lambda numbers: min(numbers) >= 0, "numbers from 0 on")


class VggBackbone(Section):
    """VGG-16 with fc6 and fc7 as convolutions (Simonyan and Zisserman 2015; SSD)."""

    name: Literal["vgg16"] = Field("vgg16", description="Backbone type")
    frozen_stages: int = Field(
        0, ge=0, le=5, description="0: nothing is frozen; 1: first two convolutions; 5: all 13"
    )
    weights: str | None = Field(
        "imagenet",
        min_length=1,
        description="imagenet (torchvision's IMAGENET1K_FEATURES, for data.std of 1), a file, or "
        "null: random",
    )

    def recipe_problems(self, recipe: Any, key: str) -> Iterator[tuple[str, str]]:
        if self.weights == "imagenet" and set(recipe.data.std) != {1.0}:
            yield (
                "data.std",
                "these VGG-16 weights are for mean-subtracted images of 0 to 255: expected "
                f"[1.0, 1.0, 1.0], got {list(recipe.data.std)}",
            )


class SsdNeck(Section):
    """The levels after conv4_3 and fc7; each list has a value for each of them."""

    out_channels: Annotated[Integers, SOME, EVEN] = Field(
        (512, 256, 256, 256), description="Channels"
    )
    strides: PositiveIntegers = Field((2, 2, 1, 1), description="Stride of its convolution")
    paddings: Annotated[Integers, SOME, FROM_ZERO] = Field(
        (1, 1, 0, 0), description="Padding of its convolution"
    )
    last_kernel: int = Field(3, gt=0, le=7, description="Kernel size of the last level; others: 3")

    def problems(self) -> Iterator[tuple[str, str]]:
        levels = len(self.out_channels)
        for key in ("strides", "paddings"):
            if (found := len(getattr(self, key))) != levels:
                yield key, f"expected {levels} values, as out_channels has, got {found}"


class SsdAnchors(Section):
    """Anchor boxes around the centre of each cell."""

    sizes: Annotated[Numbers, Field(min_length=2), RISING] = Field(
        (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0),
        description="Anchor sizes in pixels, one per level and one more: each level has "
        "squares of its own size and of the geometric mean with the next",
    )
    ratios: SizesPerLevel = Field(
        ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
        description="Aspect ratios of further anchors, in both orientations, a list per level",
    )
    strides: PositiveIntegers = Field(
        (8, 16, 32, 64, 100, 300), description="Stride in pixels of each level"
    )
    clip: bool = Field(False, description="Clip anchor width and height to the image (torchvision)")

    def problems(self) -> Iterator[tuple[str, str]]:
        if any(ratio <= 1 for level in self.ratios for ratio in level):
            yield "ratios", "expected numbers greater than 1; each is used both ways round"


class Ssd(Section):
    """SSD (Liu et al. 2016)."""

    chooser: ClassVar[str] = "regression"
    acts_with: ClassVar = {"delta_stds": ("box",)}

    name: Literal["ssd"] = Field(description="SSD")
    backbone: VggBackbone = Field(VggBackbone(), description="Backbone network")
    neck: SsdNeck = Field(SsdNeck(), description="Neck: extra levels after those of the backbone")
    anchors: SsdAnchors = Field(SsdAnchors(), description="Anchor boxes per location")
    assigner: Assigner = Field(
        MaxIouAssigner(name="max_iou", positive_iou=0.5, negative_iou=0.5, single_best=True),
        description="Label assignment of anchors",
    )
    enlarge_small: EnlargeSmall = None
    regression: Regression = "box"
    delta_stds: DeltaStds = Field(
        DELTA_STDS, description="regression box: encoded offsets (x, y, w, h) are divided by these"
    )
    class_loss: AnySoftmaxLoss = Field(
        SoftmaxLoss(name="softmax"), description="Classification loss"
    )
    box_loss: BoxLoss = Field(
        BoxLoss(name="smooth_l1", beta=1.0), description="Box regression loss"
    )
    score_threshold: ScoreThreshold = 0.02
    topk_per_level: int = Field(1000, gt=0, description="Candidates kept per level before NMS")

    def problems(self) -> Iterator[tuple[str, str]]:
        levels = BACKBONE_LEVELS + len(self.neck.out_channels)
        for key, wanted in (("sizes", levels + 1), ("ratios", levels), ("strides", levels)):
            if (found := len(getattr(self.anchors, key))) != wanted:
                for_levels = f"{wanted} values for {levels} levels (neck.out_channels)"
                yield f"anchors.{key}", f"expected {for_levels}, got {found}"
