"""The `model` section of YOLOv4."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detcli.recipe.sections.section import ScoreThreshold, Section, SizesPerLevel, Triple, rule

LEVELS = 3


class CspDarknet(Section):
    """CSPDarknet-53 (Wang et al. 2019; Bochkovskiy et al. 2020)."""

    name: Literal["cspdarknet53"] = Field("cspdarknet53", description="Backbone type")
    width: float = Field(
        1.0, gt=0, le=4, description="Width multiplier, also of neck and head; 1: as published"
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description="Darknet weights that begin with this backbone, such as yolov4.conv.137, "
        "or null: random",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.weights is not None and self.width != 1:
            yield "weights", f"public weights are for width 1, got {self.width}"


class DarknetLoss(Section):
    """As in Darknet, with its own box gradients: sums over an image."""

    name: Literal["darknet"] = Field(description="Loss, with the box encoding that belongs to it")
    box_weight: float = Field(0.07, gt=0, description="Weight of the CIoU loss")
    min_iou: float = Field(
        0.213,
        ge=0,
        le=1,
        description="Shape IoU above which further anchors are positive; 1: only the best anchor",
    )
    ignore_iou: float = Field(
        0.7, ge=0, le=1, description="Ignore threshold: above this IoU a box is no negative"
    )
    max_slope: float = Field(
        5.0, gt=0, description="Gradient clipping of each box coordinate (max_delta)"
    )


class ScaledLoss(Section):
    """As in WongKinYiu/PyTorch_YOLOv4: means over positives and cells."""

    name: Literal["scaled"] = Field(description="Loss, with the box encoding that belongs to it")
    box_weight: float = Field(0.05, gt=0, description="Weight of the CIoU loss")
    objectness_weight: float = Field(0.6, gt=0, description="Weight of the objectness loss")
    class_weight: float = Field(0.3, gt=0, description="Weight of the classification loss")
    level_weights: Annotated[Triple, rule(lambda weights: min(weights) > 0, "numbers above 0")] = (
        Field((4.0, 1.0, 0.4), description="Weights of the objectness loss at strides 8, 16 and 32")
    )
    max_ratio: float = Field(
        4.0, gt=1, description="Anchors match objects whose sides differ by a smaller factor"
    )


class YoloV4(Section):
    """YOLOv4 (Bochkovskiy et al. 2020)."""

    name: Literal["yolov4"] = Field(description="YOLOv4")
    backbone: CspDarknet = Field(CspDarknet(), description="Backbone network")
    norm: Literal["bn", "sync_bn"] = Field("bn", description="Norm after every convolution")
    anchors: SizesPerLevel = Field(
        (
            (12.0, 16.0, 19.0, 36.0, 40.0, 28.0),
            (36.0, 75.0, 76.0, 55.0, 72.0, 146.0),
            (142.0, 110.0, 192.0, 243.0, 459.0, 401.0),
        ),
        description="Anchor sizes: width and height in pixels of each in turn, a list per "
        "stride 8, 16 and 32",
    )
    scale_xy: Annotated[Triple, rule(lambda scales: min(scales) >= 1, "numbers from 1 on")] = Field(
        (1.2, 1.1, 1.05),
        description="Loss darknet: scale_x_y, how far a centre may leave its cell, per "
        "stride; 1: not",
    )
    loss: Annotated[DarknetLoss | ScaledLoss, Field(discriminator="name")] = Field(
        DarknetLoss(name="darknet"), description="Loss and box encoding"
    )
    classes_per_box: Literal["all", "best"] = Field(
        "all", description="A box is a candidate for every class, or only for its most likely one"
    )
    score_threshold: ScoreThreshold = 0.001
    topk_per_level: int = Field(1000, gt=0, description="Candidates kept per level before NMS")

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.anchors) != LEVELS:
            yield "anchors", f"expected {LEVELS} lists, got {len(self.anchors)}"
        for sides in self.anchors:
            if len(sides) < 2 or len(sides) % 2 or min(sides) <= 0:
                yield "anchors", f"expected pairs of width and height above 0, got {list(sides)}"
        if self.loss.name == "scaled" and self.is_changed("scale_xy"):
            yield "scale_xy", "acts only with loss darknet, but loss is scaled; remove it"
