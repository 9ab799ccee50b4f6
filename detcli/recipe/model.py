"""The `model` section: one class per detector, each with the keywords of its builder."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detcli.recipe.blocks import NORM_GROUPS
from detcli.recipe.centernet import CenterNet
from detcli.recipe.deformable_detr import DeformableDetr
from detcli.recipe.detr import Detr
from detcli.recipe.guided import GaFasterRcnn, Guidance
from detcli.recipe.losses import (
    AnyClassLoss,
    BoxLoss,
    DensityBranch,
    FocalLoss,
    SideLoss,
    VarifocalLoss,
)
from detcli.recipe.network import (
    BOTTLENECK,
    CONV_DIVISOR,
    AnyBackbone,
    AnyNeck,
    Backbone,
    FcosHead,
    Head,
    NasFcosNeck,
    Neck,
    RetinaNetHead,
    SearchedHead,
    VfnetHead,
)
from detcli.recipe.priors import (
    DELTA_STDS,
    Anchors,
    Assigner,
    AtssAssigner,
    EnlargedObjects,
    FcosAssigner,
    MaxIouAssigner,
    delta_problems,
)
from detcli.recipe.section import Quadruple, Section
from detcli.recipe.ssd import Ssd
from detcli.recipe.two_stage import CascadeRcnn, FasterRcnn
from detcli.recipe.yolov4 import YoloV4


class IouBranch(Section):
    """A predicted IoU for every box (Wu et al. 2020; PP-YOLO, Long et al. 2020)."""

    weight: float = Field(1.0, gt=0, description="Multiple of the loss in the sum")
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Score: class probability^(1 - this) x predicted IoU^this; 0: only the column",
    )


class Auxiliary(Section):
    """A second head on the same maps, in training only (YOLOv7, Wang et al. 2022)."""

    weight: float = Field(0.25, gt=0, description="Multiple of its losses in the sum")
    relax: float = Field(
        2.0, gt=1, description="How much looser its assignment is: thresholds / this, reach x this"
    )
    topk: int = Field(
        20, gt=0, description="An object keeps the sum of its best so many IoUs of looser positives"
    )


class Dense(Section):
    """What every detector on a feature pyramid has."""

    backbone: AnyBackbone = Field(Backbone(), description="The network that reads the image")
    neck: AnyNeck = Field(Neck(), description="The feature pyramid")
    head: Head = Field(Head(), description="The branches")
    class_loss: AnyClassLoss = Field(FocalLoss(name="focal"), description="Classification loss")
    score_threshold: float = Field(
        0.05, ge=0, lt=1, description="Candidates must have a higher class score"
    )
    topk_per_level: int = Field(1000, gt=0, description="Best candidates kept per level")
    enlarge_small: EnlargedObjects | None = Field(
        None, description="Small objects are assigned by a larger box; null: off"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        channels = self.neck.out_channels
        if self.head.norm == "gn" and (channels % NORM_GROUPS or channels == NORM_GROUPS):
            yield "neck.out_channels", _group_norm_needs(channels)
        elif (reason := _misfit(self.head, channels)) is not None:
            yield "neck.out_channels", f"head.conv {self.head.conv} {reason}, got {channels}"


class Detector(Dense):
    """What the detectors have whose head predicts one box per prior, from either start."""

    regression: Literal["box", "point"] = Field(
        "box", description="Regress from the anchor box, or side distances from its centre"
    )
    iou_branch: IouBranch | None = Field(
        None, description="Predict the IoU of each box with its object; null: off"
    )
    density_branch: DensityBranch | None = Field(
        None, description="Predict how far each object overlaps with another; null: off"
    )
    auxiliary: Auxiliary | None = Field(
        None, description="A coarser second head beside the one that is kept; null: off"
    )


class RetinaNet(Detector):
    """RetinaNet (Lin et al. 2017)."""

    name: Literal["retinanet"] = Field(description="RetinaNet")
    head: RetinaNetHead = Field(RetinaNetHead(), description="The branches")
    anchors: Anchors = Field(Anchors(), description="The anchor boxes of each cell")
    assigner: Assigner = Field(
        MaxIouAssigner(name="max_iou"), description="Which anchors learn which object"
    )
    box_loss: SideLoss = Field(SideLoss(name="l1"), description="Regression loss")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        levels = self.neck.num_levels
        sizes = self.anchors.sizes
        if sizes is not None and len(sizes) != levels:
            yield "anchors.sizes", f"expected a list for each of {levels} levels, got {len(sizes)}"


class GaRetinaNet(Dense):
    """RetinaNet with guided anchoring (Wang et al. 2019)."""

    name: Literal["ga_retinanet"] = Field(description="RetinaNet with guided anchoring")
    neck: AnyNeck = Field(Neck(extra_from="c5"), description="The feature pyramid")
    head: RetinaNetHead = Field(RetinaNetHead(), description="The branches")
    guidance: Guidance = Field(Guidance(), description="How anchors are predicted")
    assigner: MaxIouAssigner = Field(
        MaxIouAssigner(name="max_iou", negative_iou=0.5),
        description="Which predicted anchors learn which object",
    )
    box_loss: BoxLoss = Field(BoxLoss(name="smooth_l1", beta=0.04), description="Regression loss")


class Fcos(Detector):
    """FCOS (Tian et al. 2019)."""

    name: Literal["fcos"] = Field(description="FCOS")
    head: FcosHead = Field(FcosHead(), description="The branches")
    assigner: Assigner = Field(
        FcosAssigner(name="fcos"), description="Which points learn which object"
    )
    regression: Literal["box", "point"] = Field(
        "point", description="Regress from the anchor box, or side distances from its centre"
    )
    box_loss: SideLoss = Field(SideLoss(name="iou"), description="Regression loss")
    centerness_weight: float = Field(1.0, gt=0, description="Multiple of the centre-ness loss")
    centerness_on: Literal["class", "box"] = Field(
        "class", description="The branch that predicts centre-ness"
    )
    stride_units: bool = Field(
        False, description="Distances are ReLU outputs in strides; false: exp outputs in pixels"
    )
    anchor_scale: float = Field(
        8.0, gt=0, description="Side of the square box, in strides, where a box is needed"
    )
    delta_stds: Quadruple = Field(
        DELTA_STDS, description="regression box: coded offsets are divided by these"
    )
    point_offset: float = Field(
        0.5, ge=0, lt=1, description="Where in its cell a point lies, in strides"
    )
    fit_grid: bool = Field(
        False,
        description="Cells are floor(image side / map side) apart (torchvision), not the stride",
    )
    score: Literal["product", "sqrt_product"] = Field(
        "product",
        description="Class score times centre-ness, after the threshold, or its root, before it",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from delta_problems(self.delta_stds, self.regression)
        if self.regression == "box" and self.stride_units:
            yield "stride_units", "acts only with regression point, but regression is box"


class Atss(Detector):
    """ATSS (Zhang et al. 2020)."""

    name: Literal["atss"] = Field(description="ATSS")
    anchor_scale: float = Field(8.0, gt=0, description="Side of the square anchor, in strides")
    assigner: Assigner = Field(
        AtssAssigner(name="atss"), description="Which anchors learn which object"
    )
    delta_stds: Quadruple = Field(
        DELTA_STDS, description="regression box: coded offsets x, y, w, h are divided by these"
    )
    box_loss: SideLoss = Field(SideLoss(name="giou", weight=2.0), description="Regression loss")
    centerness_weight: float = Field(1.0, gt=0, description="Multiple of the centre-ness loss")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from delta_problems(self.delta_stds, self.regression)


class NasFcos(Section):
    """NAS-FCOS (Wang et al. 2020): FCOS with a neck and a head that a search found."""

    name: Literal["nas_fcos"] = Field(description="NAS-FCOS")
    backbone: AnyBackbone = Field(Backbone(), description="The network that reads the image")
    neck: NasFcosNeck = Field(NasFcosNeck(), description="The feature pyramid")
    head: SearchedHead = Field(SearchedHead(), description="The branches")
    assigner: Assigner = Field(
        FcosAssigner(name="fcos"), description="Which points learn which object"
    )
    anchor_scale: float = Field(
        8.0, gt=0, description="Side of the square box, in strides, where a box is needed"
    )
    class_loss: AnyClassLoss = Field(FocalLoss(name="focal"), description="Classification loss")
    box_loss: SideLoss = Field(SideLoss(name="iou"), description="Regression loss")
    centerness_weight: float = Field(1.0, gt=0, description="Multiple of the centre-ness loss")
    score_threshold: float = Field(
        0.05, ge=0, lt=1, description="Candidates must have a higher class score"
    )
    topk_per_level: int = Field(1000, gt=0, description="Best candidates kept per level")
    iou_branch: IouBranch | None = Field(
        None, description="Predict the IoU of each box with its object; null: off"
    )
    density_branch: DensityBranch | None = Field(
        None, description="Predict how far each object overlaps with another; null: off"
    )
    auxiliary: Auxiliary | None = Field(
        None, description="A coarser second head beside the one that is kept; null: off"
    )
    enlarge_small: EnlargedObjects | None = Field(
        None, description="Small objects are assigned by a larger box; null: off"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        channels = self.neck.out_channels
        if self.head.norm == "gn" and (channels % NORM_GROUPS or channels == NORM_GROUPS):
            yield "neck.out_channels", _group_norm_needs(channels)


class Vfnet(Dense):
    """VarifocalNet (Zhang et al. 2021)."""

    name: Literal["vfnet"] = Field(description="VarifocalNet")
    neck: AnyNeck = Field(Neck(extra_relu=True), description="The feature pyramid")
    head: VfnetHead = Field(VfnetHead(), description="The branches")
    anchor_scale: float = Field(
        8.0, gt=0, description="Side of the square box, in strides, that the assigner looks at"
    )
    assigner: Assigner = Field(
        AtssAssigner(name="atss"), description="Which points learn which object"
    )
    class_loss: AnyClassLoss = Field(
        VarifocalLoss(name="varifocal"), description="Classification loss"
    )
    box_loss: BoxLoss = Field(
        BoxLoss(name="giou", weight=2.0), description="Regression loss of the refined box"
    )
    first_box_weight: float = Field(
        1.5, gt=0, description="Multiple of the same loss of the box before refining"
    )


def _group_norm_needs(channels: int) -> str:
    return (
        f"head.norm gn has {NORM_GROUPS} groups of 2 or more channels: expected a multiple of "
        f"{NORM_GROUPS} from {2 * NORM_GROUPS} on, got {channels}"
    )


def _misfit(head: Head, channels: int) -> str | None:
    """Why the kind of the head's convolutions cannot have this many channels."""
    divisor = CONV_DIVISOR.get(head.conv, 1)
    if channels % divisor:
        return f"needs a multiple of {divisor}"
    groups = NORM_GROUPS * BOTTLENECK
    in_groups = head.conv == "bottleneck" and head.norm == "gn"
    if in_groups and (channels % groups or channels == groups):
        return f"with norm gn needs a multiple of {groups} from {2 * groups} on"
    return None


Model = Annotated[
    RetinaNet
    | GaRetinaNet
    | Fcos
    | Atss
    | NasFcos
    | Vfnet
    | Ssd
    | CenterNet
    | YoloV4
    | FasterRcnn
    | CascadeRcnn
    | GaFasterRcnn
    | Detr
    | DeformableDetr,
    Field(discriminator="name"),
]
