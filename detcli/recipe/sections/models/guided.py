"""Anchors that the network predicts itself (guided anchoring, Wang et al. 2019), and Faster R-CNN
with them."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.models.two_stage import Sampler
from detcli.recipe.sections.section import Numbers, Section


class ShapeAssigner(Section):
    """Which cells learn an object's shape, by what anchors of fixed shapes would overlap there."""

    positive_iou: float = Field(0.5, gt=0, le=1, description="From this IoU on: positive")
    negative_iou: float = Field(0.4, ge=0, le=1, description="Below this IoU: negative")
    min_positive_iou: float = Field(
        0.4, ge=0, le=1, description="A box's best cell is positive from this IoU on"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.negative_iou > self.positive_iou:
            yield (
                "negative_iou",
                f"expected at most positive_iou ({self.positive_iou}), got {self.negative_iou}",
            )


class Guidance(Section):
    """How places and shapes of anchors are learned."""

    base_scale: float = Field(
        4.0, gt=0, description="Side, in strides, of the square that a predicted shape starts from"
    )
    shape_std: float = Field(
        1.0,
        gt=0,
        description="What is predicted, times this, is the logarithm of a side over the square's",
    )
    scales_per_octave: int = Field(
        3, gt=0, description="Sizes of the fixed anchors that assign shapes: 2^(0, 1/3, 2/3) for 3"
    )
    ratios: Numbers = Field(
        (0.5, 1.0, 2.0), min_length=1, description="Height over width of those anchors"
    )
    location_target: Literal["center", "rest"] = Field(
        "center",
        description="Positive are the cells at objects' centres, or, as in MMDetection's released "
        "training since 2.0, all others",
    )
    center_ratio: float = Field(
        0.2, gt=0, le=1, description="Share of an object's sides within which cells are positive"
    )
    ignore_ratio: float = Field(
        0.5, gt=0, le=1, description="Share of an object's sides within which none is negative"
    )
    shape_assigner: ShapeAssigner = Field(
        ShapeAssigner(), description="Which cells learn which object's shape"
    )
    sampler: Sampler = Field(Sampler(), description="How many of these cells learn")
    location_weight: float = Field(1.0, gt=0, description="Multiple of the loss of the places")
    shape_weight: float = Field(1.0, gt=0, description="Multiple of the loss of the shapes")
    location_threshold: float = Field(
        0.01, ge=0, lt=1, description="Less probable places have no anchor in inference"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.ratios) <= 0:
            yield "ratios", f"expected numbers greater than 0, got {list(self.ratios)}"
        if self.center_ratio > self.ignore_ratio:
            yield (
                "center_ratio",
                f"expected at most ignore_ratio ({self.ignore_ratio}), got {self.center_ratio}",
            )
