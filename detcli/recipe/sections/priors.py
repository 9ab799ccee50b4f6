"""Anchors, and the rules by which anchors and points are given to objects."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.section import (
    ABOVE_ZERO,
    PositiveNumbers,
    Quadruple,
    Section,
    SizesPerLevel,
)

DELTA_STDS = (0.1, 0.1, 0.2, 0.2)
DeltaStds = Annotated[Quadruple, ABOVE_ZERO]
BoxDeltaStds = Annotated[
    DeltaStds, Field(description="Encoded offsets (x, y, w, h) are divided by these")
]
Regression = Annotated[
    Literal["box", "point"],
    Field(description="Regress anchor box offsets, or distances of a point to the sides"),
]
ReferenceScale = Annotated[
    float,
    Field(gt=0, description="Size of the square reference box, in strides, where a box is needed"),
]
FitGrid = Annotated[
    bool,
    Field(
        description="Grid spacing floor(image size / feature map size) (torchvision), not the "
        "stride"
    ),
]
SmallSide = Annotated[
    float,
    Field(
        gt=0, description="Small object: area below this squared, in pixels of the network input"
    ),
]


class Anchors(Section):
    """Anchor boxes of each cell, centred on the cell's corner at (x, y) x stride."""

    base_scale: float = Field(4.0, gt=0, description="Size of the smallest anchor, in strides")
    scales_per_octave: int = Field(3, gt=0, description="Scales per octave: 2^(0, 1/3, 2/3) for 3")
    ratios: PositiveNumbers = Field(
        (0.5, 1.0, 2.0), description="Aspect ratios (height / width) of the anchors"
    )
    sizes: SizesPerLevel | None = Field(
        None, description="Anchor sizes in pixels, a list per level; null: from the two keys above"
    )
    round_corners: bool = Field(False, description="Anchor corners in whole pixels (torchvision)")
    fit_grid: FitGrid = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.sizes is None:
            return
        for key in ("base_scale", "scales_per_octave"):
            if self.is_changed(key):
                yield key, "has no effect together with sizes; remove one of the two"
        if len({len(level) for level in self.sizes}) != 1 or not self.sizes[0]:
            yield "sizes", "expected a list per level, all of the same length"
        elif min(side for level in self.sizes for side in level) <= 0:
            yield "sizes", "expected numbers greater than 0"


class SmallObjects(Section):
    """Lower IoU thresholds for small objects (note 003, small objects 5)."""

    max_side_px: SmallSide
    positive_iou: float = Field(gt=0, le=1, description="IoU threshold of positives")
    negative_iou: float = Field(gt=0, le=1, description="IoU threshold of negatives")
    at_most: ClassVar = {"negative_iou": "positive_iou"}


class MaxIouAssigner(Section):
    """Positive and negative anchors by IoU thresholds (Ren et al. 2015)."""

    name: Literal["max_iou"] = Field(description="Assignment by IoU thresholds")
    positive_iou: float = Field(0.5, gt=0, le=1, description="IoU threshold of positives")
    negative_iou: float = Field(0.4, ge=0, le=1, description="IoU threshold of negatives")
    min_positive_iou: float | None = Field(
        0.0, ge=0, le=1, description="Minimum IoU of an object's best anchor; null: none forced"
    )
    small: SmallObjects | None = Field(
        None, description="Lower IoU thresholds for small objects; null: the same for all"
    )
    single_best: bool = Field(
        False, description="Only one best anchor per object, not all ties (SSD)"
    )
    at_most: ClassVar = {"negative_iou": "positive_iou"}

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.single_best and self.min_positive_iou is None:
            yield "single_best", "acts only with a min_positive_iou; remove it"
        if self.small is None:
            return
        own = (self.positive_iou, self.negative_iou)
        low = (self.small.positive_iou, self.small.negative_iou)
        if low == own:
            yield "small", "its thresholds are those of all objects: it would do nothing"
        for key, value, limit in zip(("positive_iou", "negative_iou"), low, own, strict=True):
            if value > limit:
                yield f"small.{key}", f"expected at most that of all objects ({limit}), got {value}"


class EnlargedObjects(Section):
    """Small objects, enlarged for label assignment (note 003, small objects 7)."""

    max_side_px: SmallSide
    factor: float = Field(
        gt=1, description="Factor of the box for assignment; the regression target stays"
    )


EnlargeSmall = Annotated[
    EnlargedObjects | None,
    Field(description="Label assignment of small objects with an enlarged box; null: off"),
]


class AtssAssigner(Section):
    """Adaptive training sample selection (Zhang et al. 2020)."""

    name: Literal["atss"] = Field(description="IoU threshold: mean + deviation of the candidates")
    topk: int = Field(9, gt=0, description="Candidates per object and level (top k)")


class FcosAssigner(Section):
    """Points inside a box, by level ranges of the box size (Tian et al. 2019)."""

    name: Literal["fcos"] = Field(description="Points inside the box are positive (FCOS)")
    center_radius: float | None = Field(
        None, gt=0, description="Centre sampling radius in strides; null: all points inside the box"
    )


Assigner = Annotated[MaxIouAssigner | AtssAssigner | FcosAssigner, Field(discriminator="name")]


def size_problems(anchors: Anchors, levels: int, prefix: str = "") -> Iterator[tuple[str, str]]:
    """What is wrong with the anchor sizes of this many levels; prefix: of the key."""
    if anchors.sizes is not None and len(anchors.sizes) != levels:
        found = len(anchors.sizes)
        yield f"{prefix}anchors.sizes", f"expected a list for each of {levels} levels, got {found}"
