"""The `model` sections of Faster R-CNN and Cascade R-CNN."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.blocks import Dropout
from detcli.recipe.sections.losses import BoxLoss, DensityBranch, Ohem, SideLoss, SoftmaxLoss
from detcli.recipe.sections.network import Backbone, BifpnNeck, Neck, Nested, PanNeck, TimmBackbone
from detcli.recipe.sections.priors import (
    DELTA_STDS,
    Anchors,
    Assigner,
    EnlargedObjects,
    MaxIouAssigner,
    delta_problems,
)
from detcli.recipe.sections.section import Named, Quadruple, Section


class PooledLevels(Section):
    """Levels from stride 4 on."""

    min_level: int = Field(2, ge=2, le=5, description="Finest level")
    max_level: int = Field(6, ge=2, le=8, description="Coarsest level; regions come from 5 at most")


class PooledExtra(PooledLevels):
    """Levels from stride 4 on, the last of which is every second cell of P5."""

    extra_from: Literal["c5", "p5", "pool"] = Field(
        "pool", description="P6: convolution of the backbone's last map or of P5, or cells of P5"
    )


class PooledNeck(PooledExtra, Neck):
    """Feature pyramid from stride 4 on, whose last level is every second cell of P5."""


class PooledPan(PooledExtra, PanNeck):
    """The same with a path back up from its finest level (PANet, Liu et al. 2018)."""


class PooledBifpn(PooledLevels, BifpnNeck):
    """Levels that are fused with learned weights, down and up again (Tan et al. 2020)."""


class PooledNested(PooledExtra, Nested):
    """Nested fusion with dense skip connections (UNet++, Zhou et al. 2018)."""

    name: Literal["unet_pp"] = Field(description="Family of the neck")


class CarafeNeck(Section):
    """Feature pyramid whose every level, P6 included, is enlarged by CARAFE (Wang et al. 2019)."""

    name: Literal["fpn_carafe"] = Field(description="Family of the neck")
    out_channels: int = Field(256, gt=0, description="Channels of every level")
    num_levels: ClassVar[int] = 5


class HrNeck(Section):
    """Pyramid whose levels are pooled from all maps of the backbone joined (Sun et al. 2019)."""

    name: Literal["hrfpn"] = Field(description="Family of the neck")
    out_channels: int = Field(256, gt=0, description="Channels of every level")
    num_levels: ClassVar[int] = 5


class HrBackbone(Section):
    """HRNet (Sun et al. 2019), whose finest map is as deep as the coarsest."""

    name: Literal["hrnet"] = Field(description="Family of the backbone")
    width: Literal[18, 32, 40, 48] = Field(32, description="Channels of the map at stride 4")
    norm: Literal["bn", "frozen_bn", "sync_bn", "gn", "ln", "in"] = Field(
        "bn", description="Norm layers; frozen_bn: statistics, scales and shifts are constants"
    )
    norm_eval: bool = Field(
        True, description="Batch norms use their running statistics in training too"
    )
    norm_eps: float = Field(1e-5, ge=0, description="Added to the variance")
    weights: str | None = Field(
        None,
        min_length=1,
        description="A file with the names of the authors' code, or null: random",
    )


AnyNeck = Annotated[
    PooledNeck | PooledPan | PooledBifpn | PooledNested | CarafeNeck | HrNeck,
    Field(discriminator="name"),
]
AnyBackbone = Annotated[Backbone | HrBackbone | TimmBackbone, Field(discriminator="name")]


class RpnAnchors(Anchors):
    """Anchor boxes of each cell, centred on the cell's corner at (x, y) x stride."""

    base_scale: float = Field(8.0, gt=0, description="Side of the smallest anchor, in strides")
    scales_per_octave: int = Field(1, gt=0, description="Sizes per level: 2^(0, 1/3, 2/3) for 3")


class Sampler(Section):
    """A random subset of the assigned boxes of an image."""

    num: int | None = Field(256, gt=0, description="So many learn; null: all")
    positive_share: float = Field(
        0.5, gt=0, le=1, description="At most this share of them has an object"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        default = type(self).model_fields["positive_share"].default
        if self.num is None and self.positive_share != default:
            yield "positive_share", "acts only with a num; remove it"


class RegionSampler(Sampler):
    """A random subset of the assigned boxes of an image."""

    num: int | None = Field(512, gt=0, description="So many learn; null: all")
    positive_share: float = Field(
        0.25, gt=0, le=1, description="At most this share of them has an object"
    )


class Limits(Section):
    """How many proposals there are."""

    topk_per_level: int = Field(1000, gt=0, description="Best anchors of a level before NMS")
    max_per_image: int = Field(1000, gt=0, description="Best proposals of all levels after it")


class TrainLimits(Limits):
    """How many proposals there are in training."""

    topk_per_level: int = Field(2000, gt=0, description="Best anchors of a level before NMS")


class Proposals(Section):
    """From anchors to proposals."""

    iou_threshold: float = Field(
        0.7, ge=0, le=1, description="NMS: one that overlaps a better one of its level by more goes"
    )
    min_side_px: float = Field(0.0, ge=0, description="Both sides must be longer than this")
    train: TrainLimits = Field(TrainLimits(), description="How many in training")
    test: Limits = Field(Limits(), description="How many in evaluation")


RPN_ASSIGNER = MaxIouAssigner(
    name="max_iou", positive_iou=0.7, negative_iou=0.3, min_positive_iou=0.3
)


class Rpn(Section):
    """The region proposal network (Ren et al. 2015)."""

    anchors: RpnAnchors = Field(RpnAnchors(), description="The anchor boxes of each cell")
    trained_anchors: Literal["all", "cell_inside", "box_inside"] = Field(
        "cell_inside",
        description="Which learn: all of the batch, those whose cell begins in their image, or "
        "whose box lies in it",
    )
    assigner: Assigner = Field(RPN_ASSIGNER, description="Which anchors learn which object")
    sampler: Sampler = Field(Sampler(), description="Which of these take part in a step")
    box_loss: BoxLoss = Field(BoxLoss(name="l1"), description="Regression loss")
    proposals: Proposals = Field(Proposals(), description="What goes on to the second stage")


class Pooler(Section):
    """Features of a region from the maps."""

    name: Literal["roi_align", "roi_pool"] = Field(
        "roi_align", description="Bilinear samples; or the largest of whole cells (Fast R-CNN)"
    )
    side: int = Field(7, gt=0, description="Values along each side of a region")
    scale: float = Field(
        14.0, gt=0, description="Regions are from this many strides of their level to twice as many"
    )
    sampling_ratio: int = Field(
        0, ge=0, description="roi_align: this squared samples per value; 0: one per covered cell"
    )
    aligned: bool = Field(
        True, description="roi_align: cell centres at half a cell; false: as first published"
    )
    context: float | None = Field(
        None,
        gt=1,
        description="Also pool each region with sides longer by this factor; null: it alone",
    )
    acts_with: ClassVar = {"sampling_ratio": ("roi_align",), "aligned": ("roi_align",)}

    def announce(self, named: Named) -> Iterator[str]:
        if self.context is not None:
            sides = f"{self.context:g} times its sides"
            yield f"pooler: beside each region one of {sides}, twice as many features"


class RegionHead(Section):
    """The layers behind the pooled features."""

    num_fcs: int = Field(2, ge=0, description="Fully connected layers before the predictions")
    channels: int = Field(1024, gt=0, description="Outputs of each of them")
    dropout: Dropout | None = Field(
        None, description="Noise after them, before the predictions; null: none"
    )


class RegionClassLoss(SoftmaxLoss):
    """Cross entropy of a soft-max over the classes and background."""

    ohem: Ohem | None = Field(None, description="Hard example mining; null: all samples alike")


class RegionDetector(Section):
    """What detectors with a second stage have."""

    backbone: AnyBackbone = Field(
        Backbone(name="resnet"), description="The network that reads the image"
    )
    neck: AnyNeck = Field(PooledNeck(name="fpn"), description="The feature pyramid")
    rpn: Section = Field(description="The first stage; each detector has its own")
    pooler: Pooler = Field(Pooler(), description="Features of a proposal")
    head: RegionHead = Field(RegionHead(), description="The layers of the second stage")
    sampler: RegionSampler = Field(
        RegionSampler(), description="Which assigned proposals take part in a step"
    )
    class_loss: RegionClassLoss = Field(
        RegionClassLoss(name="softmax"), description="Classification loss"
    )
    score_threshold: float = Field(
        0.05, ge=0, lt=1, description="Candidates must have a higher class score"
    )
    enlarge_small: EnlargedObjects | None = Field(
        None, description="Small objects are assigned by a larger box; null: off"
    )


class OneLook(RegionDetector):
    """What they have when their second stage looks at a region once."""

    assigner: MaxIouAssigner = Field(
        MaxIouAssigner(name="max_iou", positive_iou=0.5, negative_iou=0.5, min_positive_iou=None),
        description="Which proposals learn which object",
    )
    delta_stds: Quadruple = Field(
        DELTA_STDS, description="Coded offsets x, y, w, h are divided by these"
    )
    box_loss: SideLoss = Field(SideLoss(name="l1"), description="Regression loss")
    density_branch: DensityBranch | None = Field(
        None, description="Predict how far each object overlaps with another; null: off"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from delta_problems(self.delta_stds, "box")


def _size_problems(rpn: Rpn, levels: int) -> Iterator[tuple[str, str]]:
    sizes = rpn.anchors.sizes
    if sizes is not None and len(sizes) != levels:
        yield "rpn.anchors.sizes", f"expected a list for each of {levels} levels, got {len(sizes)}"
