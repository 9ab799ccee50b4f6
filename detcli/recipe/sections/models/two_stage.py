"""The `model` sections of Faster R-CNN and Cascade R-CNN."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.blocks import Dropout
from detcli.recipe.sections.losses import BoxLoss, DensityOption, Ohem, SideLoss, SoftmaxLoss
from detcli.recipe.sections.network import (
    AuthorsWeights,
    Backbone,
    BackboneNorm,
    BifpnNeck,
    ExtraFrom,
    Neck,
    Nested,
    NormEval,
    PanNeck,
    TimmBackbone,
)
from detcli.recipe.sections.priors import (
    DELTA_STDS,
    Anchors,
    Assigner,
    BoxDeltaStds,
    EnlargeSmall,
    MaxIouAssigner,
)
from detcli.recipe.sections.section import Named, ScoreThreshold, Section


class PooledLevels(Section):
    """Levels from stride 4 on."""

    min_level: int = Field(2, ge=2, le=5, description="Finest level")
    max_level: int = Field(6, ge=2, le=8, description="Coarsest level; RoIs use up to P5")


class PooledExtra(PooledLevels):
    """Levels from stride 4 on; P6 is P5 subsampled."""

    extra_from: ExtraFrom = "pool"


class PooledNeck(PooledExtra, Neck):
    """Feature pyramid network from stride 4 on; P6 is P5 subsampled."""


class PooledPan(PooledExtra, PanNeck):
    """The same with a bottom-up path (PANet, Liu et al. 2018)."""


class PooledBifpn(PooledLevels, BifpnNeck):
    """BiFPN: weighted top-down and bottom-up fusion (Tan et al. 2020)."""


class PooledNested(PooledExtra, Nested):
    """UNet++: nested fusion with dense skip connections (Zhou et al. 2018)."""

    name: Literal["unet_pp"] = Field(description="Neck type")
    deep_supervision: ClassVar[bool] = False  # regions are looked up in one pyramid


class CarafeNeck(Section):
    """Feature pyramid with CARAFE upsampling of every level, P6 too (Wang et al. 2019)."""

    name: Literal["fpn_carafe"] = Field(description="Neck type")
    out_channels: int = Field(256, gt=0, description="Channels of every level")
    num_levels: ClassVar[int] = 5


class HrNeck(Section):
    """HRFPN: levels pooled from all concatenated backbone features (Sun et al. 2019)."""

    name: Literal["hrfpn"] = Field(description="Neck type")
    out_channels: int = Field(256, gt=0, description="Channels of every level")
    num_levels: ClassVar[int] = 5


class HrBackbone(Section):
    """HRNet (Sun et al. 2019): high-resolution features throughout."""

    name: Literal["hrnet"] = Field(description="Backbone type")
    width: Literal[18, 32, 40, 48] = Field(32, description="Channels of the stride-4 features")
    norm: BackboneNorm = "bn"
    norm_eval: NormEval = True
    norm_eps: float = Field(1e-5, ge=0, description="Epsilon of the norms")
    weights: AuthorsWeights = None


AnyNeck = Annotated[
    PooledNeck | PooledPan | PooledBifpn | PooledNested | CarafeNeck | HrNeck,
    Field(discriminator="name"),
]
AnyBackbone = Annotated[Backbone | HrBackbone | TimmBackbone, Field(discriminator="name")]


class RpnAnchors(Anchors):
    """Anchor boxes of each cell, centred on the cell's corner at (x, y) x stride."""

    base_scale: float = Field(8.0, gt=0, description="Size of the smallest anchor, in strides")
    scales_per_octave: int = Field(1, gt=0, description="Scales per octave: 2^(0, 1/3, 2/3) for 3")


class Sampler(Section):
    """Random sampling of positives and negatives of an image."""

    num: int | None = Field(256, gt=0, description="Samples per image; null: all")
    positive_share: float = Field(0.5, gt=0, le=1, description="Maximum fraction of positives")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.num is None and self.is_changed("positive_share"):
            yield "positive_share", "acts only with a num; remove it"


class RegionSampler(Sampler):
    """Random sampling of positives and negatives of an image."""

    num: int | None = Field(512, gt=0, description="Samples per image; null: all")
    positive_share: float = Field(0.25, gt=0, le=1, description="Maximum fraction of positives")


class Limits(Section):
    """Numbers of proposals."""

    topk_per_level: int = Field(1000, gt=0, description="Proposals per level before NMS")
    max_per_image: int = Field(1000, gt=0, description="Proposals kept per image after NMS")


class TrainLimits(Limits):
    """Numbers of proposals in training."""

    topk_per_level: int = Field(2000, gt=0, description="Proposals per level before NMS")


class Proposals(Section):
    """From anchors to region proposals."""

    iou_threshold: float = Field(
        0.7, ge=0, le=1, description="IoU threshold of NMS within each level"
    )
    min_side_px: float = Field(0.0, ge=0, description="Minimum width and height in pixels")
    train: TrainLimits = Field(TrainLimits(), description="Number of proposals in training")
    test: Limits = Field(Limits(), description="Number of proposals in evaluation")


RPN_ASSIGNER = MaxIouAssigner(
    name="max_iou", positive_iou=0.7, negative_iou=0.3, min_positive_iou=0.3
)


class Rpn(Section):
    """Region proposal network (Ren et al. 2015)."""

    anchors: RpnAnchors = Field(RpnAnchors(), description="Anchor boxes per location")
    trained_anchors: Literal["all", "cell_inside", "box_inside"] = Field(
        "cell_inside",
        description="Anchors used in training: all, those whose cell starts inside the image, "
        "or those whose box lies inside it",
    )
    assigner: Assigner = Field(RPN_ASSIGNER, description="Label assignment of anchors")
    sampler: Sampler = Field(Sampler(), description="Sampling of positives and negatives")
    box_loss: BoxLoss = Field(BoxLoss(name="l1"), description="Box regression loss")
    proposals: Proposals = Field(Proposals(), description="Proposals of the second stage")


class Pooler(Section):
    """RoI pooling: features of a region."""

    name: Literal["roi_align", "roi_pool"] = Field(
        "roi_align", description="RoIAlign (bilinear samples), or RoIPool (max, Fast R-CNN)"
    )
    side: int = Field(7, gt=0, description="Output size in cells per side")
    scale: float = Field(
        14.0,
        gt=0,
        description="RoIs measure from this many strides of their level to twice as many",
    )
    sampling_ratio: int = Field(
        0, ge=0, description="roi_align: this squared samples per value; 0: adaptive"
    )
    aligned: bool = Field(
        True, description="roi_align: half-pixel aligned; false: as first published"
    )
    context: float | None = Field(
        None,
        gt=1,
        description="RoI context: also pool each region enlarged by this factor; null: off",
    )
    acts_with: ClassVar = {"sampling_ratio": ("roi_align",), "aligned": ("roi_align",)}

    def announce(self, named: Named) -> Iterator[str]:
        if self.context is not None:
            yield f"RoI context: also pools regions enlarged {self.context:g}x; twice the channels"


class RegionHead(Section):
    """RoI head: layers after the pooled features."""

    num_fcs: int = Field(2, ge=0, description="Number of fully connected layers")
    channels: int = Field(1024, gt=0, description="Channels of the fully connected layers")
    dropout: Dropout | None = Field(
        None, description="Dropout after them, before the predictions; null: none"
    )


class RegionClassLoss(SoftmaxLoss):
    """Cross entropy of a soft-max over the classes and background."""

    ohem: Ohem | None = Field(None, description="Hard example mining; null: off")


class RegionDetector(Section):
    """What detectors with a second stage have."""

    backbone: AnyBackbone = Field(Backbone(name="resnet"), description="Backbone network")
    neck: AnyNeck = Field(PooledNeck(name="fpn"), description="Neck: feature pyramid")
    rpn: Section = Field(description="First stage: region proposal network (RPN)")
    pooler: Pooler = Field(Pooler(), description="RoI pooling: features of each proposal")
    head: RegionHead = Field(RegionHead(), description="Second-stage head")
    sampler: RegionSampler = Field(
        RegionSampler(), description="Sampling of positive and negative proposals"
    )
    class_loss: RegionClassLoss = Field(
        RegionClassLoss(name="softmax"), description="Classification loss"
    )
    score_threshold: ScoreThreshold = 0.05
    enlarge_small: EnlargeSmall = None


class OneLook(RegionDetector):
    """What they have when their second stage looks at a region once."""

    assigner: MaxIouAssigner = Field(
        MaxIouAssigner(name="max_iou", positive_iou=0.5, negative_iou=0.5, min_positive_iou=None),
        description="Label assignment of proposals",
    )
    delta_stds: BoxDeltaStds = DELTA_STDS
    box_loss: SideLoss = Field(SideLoss(name="l1"), description="Box regression loss")
    density_branch: DensityOption = None
