"""The `model` section: one class per detector, each with the keywords of its builder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from detcli.recipe.section import Numbers, Quadruple, Section, SizesPerLevel

DELTA_STDS = (0.1, 0.1, 0.2, 0.2)


NORM_GROUPS = 32  # of every group norm in a head


class Backbone(Section):
    """The network that reads the image."""

    name: Literal["resnet"] = Field("resnet", description="Family of the backbone")
    depth: Literal[18, 34, 50, 101] = Field(50, description="Number of weight layers")
    style: Literal["pytorch", "caffe"] = Field(
        "pytorch", description="Stride in the 3x3 convolution, or in the first 1x1 of a block"
    )
    norm: Literal["bn", "frozen_bn", "sync_bn", "gn"] = Field(
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

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.style == "caffe" and self.depth < 50:
            yield (
                "style",
                f"caffe concerns bottleneck blocks (depth 50, 101), depth is {self.depth}",
            )
        if self.weights != "imagenet":
            return
        if self.style == "caffe":
            yield "weights", "torchvision has no caffe-style weights: give a file, or null"
        if self.norm == "gn":
            yield "weights", "torchvision has no weights with group norm: give a file, or null"


class Neck(Section):
    """Feature pyramid (Lin et al. 2017). Level l has stride 2^l."""

    name: Literal["fpn"] = Field("fpn", description="Family of the neck")
    out_channels: int = Field(256, gt=0, description="Channels of every level")
    min_level: int = Field(3, ge=2, le=5, description="Finest level; 2 adds a head at stride 4")
    max_level: int = Field(7, ge=2, le=8, description="Coarsest level; above 5: extra convolutions")
    extra_from: Literal["c5", "p5"] = Field(
        "p5", description="P6 is made from the backbone's last map or from P5"
    )
    extra_relu: bool = Field(False, description="ReLU between P6 and P7")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.min_level > self.max_level:
            yield (
                "min_level",
                f"expected at most max_level ({self.max_level}), got {self.min_level}",
            )
        elif self.max_level < 5:
            yield "max_level", f"expected at least 5, the backbone's last, got {self.max_level}"


class Head(Section):
    """The convolutions of each branch, shared by all levels."""

    num_convs: int = Field(4, ge=0, description="3x3 convolutions before the prediction")
    norm: Literal["none", "gn"] = Field("gn", description="Norm after each of them")


class RetinaNetHead(Head):
    """As published: no norm."""

    norm: Literal["none", "gn"] = Field("none", description="Norm after each of them")


class FcosHead(Head):
    """The convolutions of each branch, shared by all levels."""

    conv_bias: bool = Field(False, description="Those convolutions have a bias beside the norm")


class MaxIouAssigner(Section):
    """Positive and negative anchors by IoU thresholds (Ren et al. 2015)."""

    name: Literal["max_iou"] = Field(description="IoU thresholds")
    positive_iou: float = Field(0.5, gt=0, le=1, description="From this IoU on: positive")
    negative_iou: float = Field(0.4, ge=0, le=1, description="Below this IoU: negative")
    min_positive_iou: float = Field(
        0.0, ge=0, le=1, description="A box's best anchor is positive from this IoU on"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.negative_iou > self.positive_iou:
            yield (
                "negative_iou",
                f"expected at most positive_iou ({self.positive_iou}), got {self.negative_iou}",
            )


class AtssAssigner(Section):
    """Adaptive training sample selection (Zhang et al. 2020)."""

    name: Literal["atss"] = Field(description="Mean plus deviation of the candidates' IoU")
    topk: int = Field(9, gt=0, description="Candidates per object and level")


class FcosAssigner(Section):
    """Points inside a box, by level ranges of the box size (Tian et al. 2019)."""

    name: Literal["fcos"] = Field(description="Points inside the box")
    center_radius: float | None = Field(
        None, gt=0, description="Only points this many strides from the centre; null: all inside"
    )


Assigner = Annotated[MaxIouAssigner | AtssAssigner | FcosAssigner, Field(discriminator="name")]


class Ohem(Section):
    """Online hard example mining (Shrivastava et al. 2016), in each image."""

    name: Literal["hardest", "rank"] = Field(
        description="hardest: drop easy background; rank: weight by the rank of the loss"
    )
    negatives_per_object: float = Field(
        3.0, gt=0, description="hardest: samples of background kept for each sample of an object"
    )
    power: float = Field(
        1.0, gt=0, description="rank: weight (1 + power) (1 - r)^power, r 0 for the hardest, to 1"
    )
    acts_with: ClassVar = {"negatives_per_object": ("hardest",), "power": ("rank",)}


class ClassLoss(Section):
    """What every classification loss has."""

    weight: float = Field(1.0, gt=0, description="Multiple of the loss in the sum")
    ohem: Ohem | None = Field(None, description="Hard example mining; null: all samples alike")


class FocalLoss(ClassLoss):
    """Focal loss (Lin et al. 2017)."""

    name: Literal["focal"] = Field(description="Classification loss")
    alpha: float = Field(0.25, ge=0, le=1, description="Weight of the positives; 1 - alpha: others")
    gamma: float = Field(2.0, ge=0, description="How strongly easy examples are damped")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Samples of objects: targets 1 - this, and this elsewhere"
    )


class BceLoss(ClassLoss):
    """Binary cross entropy, every entry alike."""

    name: Literal["bce"] = Field(description="Classification loss")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Samples of objects: targets 1 - this, and this elsewhere"
    )


class VarifocalLoss(ClassLoss):
    """Varifocal loss (Zhang et al. 2021): the target is the IoU of the predicted box."""

    name: Literal["varifocal"] = Field(description="Classification loss")
    negative_weight: float = Field(
        0.75, ge=0, description="Factor of the negatives (the paper's alpha; not a share)"
    )
    gamma: float = Field(2.0, ge=0, description="How strongly easy negatives are damped")


class QualityFocalLoss(ClassLoss):
    """Quality focal loss (Li et al. 2020): the target is the IoU of the predicted box."""

    name: Literal["quality_focal"] = Field(description="Classification loss")
    gamma: float = Field(2.0, ge=0, description="Power of the distance to the target")


AnyClassLoss = Annotated[
    FocalLoss | BceLoss | VarifocalLoss | QualityFocalLoss, Field(discriminator="name")
]


class BoxLoss(Section):
    """Regression loss."""

    name: Literal["l1", "l2", "smooth_l1", "iou", "giou", "diou", "ciou", "eiou", "focal_eiou"] = (
        Field(description="l1, l2 and smooth_l1 on coded offsets, the others on decoded boxes")
    )
    form: Literal["log", "linear"] = Field("log", description="iou: -log IoU, or 1 - IoU")
    beta: float = Field(1 / 9, gt=0, description="smooth_l1: where the square ends")
    gamma: float = Field(
        0.5, gt=0, description="focal_eiou: power of the IoU that each box is weighted by"
    )
    small_box_factor: float | None = Field(
        None,
        gt=0,
        description="Weight of each box: this x (2 - w x h), w and h relative to the image; "
        "null: 1",
    )
    weight: float = Field(1.0, gt=0, description="Multiple of the loss in the sum")
    acts_with: ClassVar = {
        "form": ("iou",),
        "beta": ("smooth_l1",),
        "gamma": ("focal_eiou",),
    }


class Anchors(Section):
    """Anchor boxes of each cell, centred on the cell's corner at (x, y) x stride."""

    base_scale: float = Field(4.0, gt=0, description="Side of the smallest anchor, in strides")
    scales_per_octave: int = Field(3, gt=0, description="Sizes per level: 2^(0, 1/3, 2/3) for 3")
    ratios: Numbers = Field(
        (0.5, 1.0, 2.0), min_length=1, description="Height over width of the anchors"
    )
    sizes: SizesPerLevel | None = Field(
        None, description="Sides in pixels, a list per level; null: from the two keys above"
    )
    round_corners: bool = Field(False, description="Anchor corners in whole pixels (torchvision)")
    fit_grid: bool = Field(
        False,
        description="Cells are floor(image side / map side) apart (torchvision), not the stride",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.ratios) <= 0:
            yield "ratios", f"expected numbers greater than 0, got {list(self.ratios)}"
        if self.sizes is None:
            return
        for key in ("base_scale", "scales_per_octave"):
            if getattr(self, key) != type(self).model_fields[key].default:
                yield key, "does nothing beside sizes; remove one of the two"
        if len({len(level) for level in self.sizes}) != 1 or not self.sizes[0]:
            yield "sizes", "expected a list per level, all of the same length"
        elif min(side for level in self.sizes for side in level) <= 0:
            yield "sizes", "expected numbers greater than 0"


class Detector(Section):
    """What every dense detector has."""

    backbone: Backbone = Field(Backbone(), description="The network that reads the image")
    neck: Neck = Field(Neck(), description="The feature pyramid")
    head: Head = Field(Head(), description="The branches")
    regression: Literal["box", "point"] = Field(
        "box", description="Regress from the anchor box, or side distances from its centre"
    )
    class_loss: AnyClassLoss = Field(FocalLoss(name="focal"), description="Classification loss")
    score_threshold: float = Field(
        0.05, ge=0, lt=1, description="Candidates must have a higher class score"
    )
    topk_per_level: int = Field(1000, gt=0, description="Best candidates kept per level")

    def problems(self) -> Iterator[tuple[str, str]]:
        channels = self.neck.out_channels
        if self.head.norm == "gn" and (channels % NORM_GROUPS or channels == NORM_GROUPS):
            yield (
                "neck.out_channels",
                f"head.norm gn has {NORM_GROUPS} groups of 2 or more channels: expected a multiple "
                f"of {NORM_GROUPS} from {2 * NORM_GROUPS} on, got {channels}",
            )


class RetinaNet(Detector):
    """RetinaNet (Lin et al. 2017)."""

    name: Literal["retinanet"] = Field(description="RetinaNet")
    head: RetinaNetHead = Field(RetinaNetHead(), description="The branches")
    anchors: Anchors = Field(Anchors(), description="The anchor boxes of each cell")
    assigner: Assigner = Field(
        MaxIouAssigner(name="max_iou"), description="Which anchors learn which object"
    )
    box_loss: BoxLoss = Field(BoxLoss(name="l1"), description="Regression loss")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        levels = self.neck.max_level - self.neck.min_level + 1
        sizes = self.anchors.sizes
        if sizes is not None and len(sizes) != levels:
            yield "anchors.sizes", f"expected a list for each of {levels} levels, got {len(sizes)}"


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
    box_loss: BoxLoss = Field(BoxLoss(name="iou"), description="Regression loss")
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
        yield from _delta_problems(self.delta_stds, self.regression)
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
    box_loss: BoxLoss = Field(BoxLoss(name="giou", weight=2.0), description="Regression loss")
    centerness_weight: float = Field(1.0, gt=0, description="Multiple of the centre-ness loss")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from _delta_problems(self.delta_stds, self.regression)


def _delta_problems(stds: tuple[float, ...], regression: str) -> Iterator[tuple[str, str]]:
    if min(stds) <= 0:
        yield "delta_stds", f"expected numbers greater than 0, got {list(stds)}"
    if regression == "point" and stds != DELTA_STDS:
        yield "delta_stds", "acts only with regression box, but regression is point; remove it"


Model = Annotated[RetinaNet | Fcos | Atss, Field(discriminator="name")]
