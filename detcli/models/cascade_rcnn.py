"""Cascade R-CNN on a feature pyramid (arXiv 1712.00726).

Letters: B images, r regions of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from detcli.assign import MaxIoUAssigner, RandomSampler
from detcli.models.dense.terms import build_criterion
from detcli.models.detector import Detector
from detcli.models.pyramid import build_pyramid
from detcli.models.two_stage.first_stage import FirstStage, first_stage
from detcli.models.two_stage.regions import (
    RegionHead,
    RegionOutputs,
    Stage,
    look_at_regions,
    region_candidates,
    region_losses,
    region_priors,
)
from detcli.models.two_stage.roi_pool import RegionPooler
from detcli.models.two_stage.rpn import RPN, Proposals, build_rpn
from detcli.ops.boxes import clip_boxes
from detcli.ops.coders import DeltaCoder
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.cascade_rcnn import CascadeRcnn


class CascadeRCNNOutputs(NamedTuple):
    """Raw predictions of the first network and of the stages after it."""

    first: FirstStage
    stages: tuple[RegionOutputs, ...]


class CascadeRCNN(Detector):
    """Proposals, then stages that each start from the boxes of the one before and ask for a larger
    overlap. Scores are the mean over the stages, boxes those of the last one.

    With targets every stage looks at samples of its regions and at the objects' own boxes, which
    do not go on to the next stage. Regions are constants for the gradient.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: RPN,
        heads: Sequence[RegionHead],
        *,
        pooler: RegionPooler,
        stages: Sequence[Stage],
        sampler: RandomSampler,
        score_threshold: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.heads = nn.ModuleList(heads)
        self.pooler = pooler
        self.stages = tuple(stages)
        self.sampler = sampler
        self.score_threshold = score_threshold

    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> CascadeRCNNOutputs:
        """Raw predictions for images (B, 3, H, W), for losses with targets, for candidates without.

        sizes: (height, width) of the valid part of each image, from the targets where there are
        any; None: all of the batch.
        """
        first = first_stage(
            images, self.backbone, self.neck, self.rpn, targets=targets, sizes=sizes
        )
        proposals, found = self.rpn.propose(first.rpn, first.canvas, first.sizes), []
        for head, stage in zip(self.heads, self.stages, strict=True):
            assert isinstance(head, RegionHead)
            raw = look_at_regions(
                head,
                self.pooler,
                first.maps,
                proposals,
                targets,
                assigner=stage.criterion.assigner,
                sampler=self.sampler,
            )
            found.append(raw)
            proposals = Proposals(_refined(raw, stage.coder, first.sizes), densities=())
        return CascadeRCNNOutputs(first, tuple(found))

    def loss(self, outputs: CascadeRCNNOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "rpn_class", "rpn_box", and for each stage from 1 on "class_1", "box_1", float32
        scalars with their weights, for outputs of a forward pass with the same targets."""
        losses = self.rpn.loss(outputs.first.rpn, targets, outputs.first.canvas)
        for number, (stage, raw) in enumerate(zip(self.stages, outputs.stages, strict=True), 1):
            classes, box = region_losses(stage.criterion, stage.coder, raw)
            losses[f"class_{number}"] = stage.weight * classes
            losses[f"box_{number}"] = stage.weight * box
        return losses

    @torch.no_grad()
    def decode(
        self, outputs: CascadeRCNNOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are soft-max probabilities of the classes, of the
        stages' mean logits as in MMDetection."""
        return region_candidates(
            outputs.stages[-1],
            torch.stack([stage.class_logits.float() for stage in outputs.stages]).mean(dim=0),
            self.stages[-1].coder,
            score_threshold=self.score_threshold,
            sizes=image_sizes,
        )


@torch.no_grad()
def _refined(
    raw: RegionOutputs, coder: DeltaCoder, sizes: Sequence[tuple[int, int]]
) -> tuple[Tensor, ...]:
    """The boxes (r, 4) that a stage makes of each image's regions, cut at the sides of the image;
    without those of the objects themselves."""
    deltas = torch.split(raw.boxes.float(), [len(regions) for regions in raw.regions])
    refined = [
        clip_boxes(coder.decode(rows, region_priors(regions)), size)
        for rows, regions, size in zip(deltas, raw.regions, sizes, strict=True)
    ]
    if raw.samples is None:
        return tuple(refined)
    return tuple(boxes[~known] for boxes, known in zip(refined, raw.samples.is_object, strict=True))


def build_cascade_rcnn(options: CascadeRcnn, *, num_classes: int) -> CascadeRCNN:
    """Cascade R-CNN from the model section of a recipe."""
    trunk, pyramid = build_pyramid(options.backbone, options.neck)
    channels, strides = pyramid.out_channels, pyramid.strides
    pooler = RegionPooler(strides, options.pooler)
    ious, stds, weights = options.stage_ious, options.stage_stds, options.stage_weights
    stages = [
        Stage(
            build_criterion(options, MaxIoUAssigner(iou, iou, min_positive_iou=None)),
            DeltaCoder(own),
            weight,
        )
        for iou, own, weight in zip(ious, stds, weights, strict=True)
    ]
    enlarge = options.enlarge_small
    return CascadeRCNN(
        trunk,
        pyramid,
        build_rpn(channels, strides, options.rpn, enlarge_small=enlarge, density=None),
        [
            RegionHead(
                pooler.num_features(channels),
                options.head,
                num_classes=num_classes,
                class_agnostic=True,
                sigma=False,
            )
            for _ in stages
        ],
        pooler=pooler,
        stages=stages,
        sampler=RandomSampler(options.sampler.num, options.sampler.positive_share),
        score_threshold=options.score_threshold,
    )
