"""Anchors that the network predicts itself (guided anchoring, Wang et al. 2019), and Faster R-CNN
with them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.models.two_stage import Sampler
from detcli.recipe.sections.section import PositiveNumbers, Section

BestIou = Annotated[
    float, Field(ge=0, le=1, description="Minimum IoU for an object's best cell to be positive")
]
BaseScale = Annotated[
    float,
    Field(gt=0, description="Size of the square, in strides, that the predicted shape scales"),
]
ShapeStd = Annotated[
    float, Field(gt=0, description="Prediction x this = log(anchor side / base size)")
]


class ShapeAssigner(Section):
    """Assignment of the anchor shape branch, by the IoU of fixed anchors at each cell."""

    positive_iou: float = Field(0.5, gt=0, le=1, description="IoU threshold of positives")
    negative_iou: float = Field(0.4, ge=0, le=1, description="IoU threshold of negatives")
    min_positive_iou: BestIou = 0.4
    at_most: ClassVar = {"negative_iou": "positive_iou"}


class Guidance(Section):
    """Guided anchoring: predicted locations and shapes of anchors."""

    base_scale: BaseScale = 4.0
    shape_std: ShapeStd = 1.0
    scales_per_octave: int = Field(
        3, gt=0, description="Scales per octave of the assigning anchors: 2^(0, 1/3, 2/3) for 3"
    )
    ratios: PositiveNumbers = Field(
        (0.5, 1.0, 2.0), description="Aspect ratios (height / width) of those anchors"
    )
    location_target: Literal["center", "rest"] = Field(
        "center",
        description="Positive locations: cells at object centres, or, as in MMDetection's "
        "released training since 2.0, all others",
    )
    center_ratio: float = Field(
        0.2, gt=0, le=1, description="Centre region of positives, as a fraction of the sides"
    )
    ignore_ratio: float = Field(
        0.5, gt=0, le=1, description="Region without negatives, as a fraction of the sides"
    )
    shape_assigner: ShapeAssigner = Field(
        ShapeAssigner(), description="Label assignment of the anchor shape branch"
    )
    sampler: Sampler = Field(Sampler(), description="Number of sampled cells")
    location_weight: float = Field(1.0, gt=0, description="Weight of the location loss")
    shape_weight: float = Field(1.0, gt=0, description="Weight of the shape loss")
    location_threshold: float = Field(
        0.01, ge=0, lt=1, description="Location score threshold of anchors in inference"
    )
    at_most: ClassVar = {"center_ratio": "ignore_ratio"}
