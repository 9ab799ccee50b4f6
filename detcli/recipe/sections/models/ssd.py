"""The `model` section of SSD, whose network and anchors no other detector shares."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from detcli.recipe.sections.losses import AnySoftmaxLoss, BoxLoss, SoftmaxLoss
from detcli.recipe.sections.priors import (
    DELTA_STDS,
    Assigner,
    EnlargedObjects,
    MaxIouAssigner,
    delta_problems,
)
from detcli.recipe.sections.section import Integers, Numbers, Quadruple, Section, SizesPerLevel

BACKBONE_LEVELS = 2  # conv4_3 and fc7


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

    out_channels: Integers = Field((512, 256, 256, 256), min_length=1, description="Channels")
    strides: Integers = Field((2, 2, 1, 1), min_length=1, description="Stride of its convolution")
    paddings: Integers = Field((1, 1, 0, 0), min_length=1, description="Padding of its convolution")
    last_kernel: int = Field(3, gt=0, le=7, description="Kernel size of the last level; others: 3")

    def problems(self) -> Iterator[tuple[str, str]]:
        for key in ("strides", "paddings"):
            if len(getattr(self, key)) != len(self.out_channels):
                yield (
                    key,
                    f"expected {len(self.out_channels)} values, as out_channels has, got "
                    f"{len(getattr(self, key))}",
                )
        if min(self.out_channels) < 2 or any(channels % 2 for channels in self.out_channels):
            yield "out_channels", f"expected even numbers from 2 on, got {list(self.out_channels)}"
        if min(self.strides) < 1:
            yield "strides", f"expected numbers greater than 0, got {list(self.strides)}"
        if min(self.paddings) < 0:
            yield "paddings", f"expected numbers from 0 on, got {list(self.paddings)}"


class SsdAnchors(Section):
    """Anchor boxes around the centre of each cell."""

    sizes: Numbers = Field(
        (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0),
        min_length=2,
        description="Anchor sizes in pixels, one per level and one more: each level has "
        "squares of its own size and of the geometric mean with the next",
    )
    ratios: SizesPerLevel = Field(
        ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
        description="Aspect ratios of further anchors, in both orientations, a list per level",
    )
    strides: Integers = Field(
        (8, 16, 32, 64, 100, 300), min_length=1, description="Stride in pixels of each level"
    )
    clip: bool = Field(False, description="Clip anchor width and height to the image (torchvision)")

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.sizes) <= 0 or any(b <= a for a, b in pairwise(self.sizes)):
            yield "sizes", f"expected rising numbers greater than 0, got {list(self.sizes)}"
        if min(self.strides) < 1:
            yield "strides", f"expected numbers greater than 0, got {list(self.strides)}"
        if any(ratio <= 1 for level in self.ratios for ratio in level):
            yield "ratios", "expected numbers greater than 1; each is used both ways round"


class Ssd(Section):
    """SSD (Liu et al. 2016)."""

    name: Literal["ssd"] = Field(description="SSD")
    backbone: VggBackbone = Field(VggBackbone(), description="Backbone network")
    neck: SsdNeck = Field(SsdNeck(), description="Neck: extra levels after those of the backbone")
    anchors: SsdAnchors = Field(SsdAnchors(), description="Anchor boxes per location")
    assigner: Assigner = Field(
        MaxIouAssigner(name="max_iou", positive_iou=0.5, negative_iou=0.5, single_best=True),
        description="Label assignment of anchors",
    )
    enlarge_small: EnlargedObjects | None = Field(
        None, description="Label assignment of small objects with an enlarged box; null: off"
    )
    regression: Literal["box", "point"] = Field(
        "box", description="Regress anchor box offsets, or distances of a point to the sides"
    )
    delta_stds: Quadruple = Field(
        DELTA_STDS, description="regression box: encoded offsets (x, y, w, h) are divided by these"
    )
    class_loss: AnySoftmaxLoss = Field(
        SoftmaxLoss(name="softmax"), description="Classification loss"
    )
    box_loss: BoxLoss = Field(
        BoxLoss(name="smooth_l1", beta=1.0), description="Box regression loss"
    )
    score_threshold: float = Field(
        0.02, ge=0, lt=1, description="Score threshold of the candidates"
    )
    topk_per_level: int = Field(1000, gt=0, description="Candidates kept per level before NMS")

    def problems(self) -> Iterator[tuple[str, str]]:
        levels = BACKBONE_LEVELS + len(self.neck.out_channels)
        for key, wanted in (("sizes", levels + 1), ("ratios", levels), ("strides", levels)):
            if len(getattr(self.anchors, key)) != wanted:
                yield (
                    f"anchors.{key}",
                    f"expected {wanted} values for {levels} levels (neck.out_channels), got "
                    f"{len(getattr(self.anchors, key))}",
                )
        yield from delta_problems(self.delta_stds, self.regression)
