"""Cascade R-CNN on a feature pyramid (arXiv 1712.00726).

Letters: B images, R regions of the batch, r regions of one image, C classes, S stages; h, w cells
of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detcli.assign import RandomSampler
from detcli.models.heads.regions import (
    RegionHead,
    Samples,
    region_candidates,
    region_losses,
    region_priors,
    sample_regions,
)
from detcli.models.heads.roi_pool import RegionPooler, build_pooler
from detcli.models.heads.rpn import RPN, RPNOutputs, build_rpn
from detcli.models.heads.terms import Criterion, build_criterion
from detcli.models.pyramid import build_pyramid
from detcli.ops.boxes import clip_boxes
from detcli.ops.coders import DeltaCoder
from detcli.types import Candidates, Target


class StageOutputs(NamedTuple):
    """Raw predictions of one stage: class_logits (R, C + 1), background last, and boxes (R, 4),
    deltas, for the regions (r, 4) xyxy of each image; samples: what they should learn, None
    without targets."""

    regions: tuple[Tensor, ...]
    class_logits: Tensor
    boxes: Tensor
    samples: Samples | None


class CascadeRCNNOutputs(NamedTuple):
    """rpn: raw predictions of the first network; stages: those after it; maps (B, D, h, w): of the
    neck; sizes: (height, width) of the images, at which regions were cut; canvas: that of the
    padded batch."""

    rpn: RPNOutputs
    stages: tuple[StageOutputs, ...]
    maps: tuple[Tensor, ...]
    sizes: tuple[tuple[int, int], ...]
    canvas: tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """How one stage learns, and the factor of its losses."""

    criterion: Criterion
    coder: DeltaCoder
    weight: float


class CascadeRCNN(nn.Module):
    """Proposals, then stages that each start from the boxes of the one before and ask for a larger
    overlap. Scores are the mean over the stages, boxes those of the last one.

    With targets every stage looks at samples of its regions and at the objects' own boxes, which
    do not go on to the next stage. Regions are constants for the gradient.
    """

    cuts_proposals = True  # forward can use the sizes of the images inside the batch

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
        any; None: all of the batch. `decode` looks again where it is told smaller ones.
        """
        maps = self.neck(self.backbone(images))
        canvas = (images.shape[-2], images.shape[-1])
        rpn = self.rpn(maps)
        if targets is not None:
            return self._look(maps, rpn, canvas, [target.size for target in targets], targets)
        return self._look(maps, rpn, canvas, sizes or [canvas] * len(images), None)

    def loss(self, outputs: CascadeRCNNOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "rpn_class", "rpn_box", and for each stage from 1 on "class_1", "box_1", float32
        scalars with their weights, for outputs of a forward pass with the same targets."""
        losses = self.rpn.loss(outputs.rpn, targets, outputs.canvas)
        for number, (stage, raw) in enumerate(zip(self.stages, outputs.stages, strict=True), 1):
            assert raw.samples is not None, "a loss needs a forward pass with targets"
            classes, box = region_losses(
                stage.criterion, stage.coder, raw.class_logits, raw.boxes, raw.samples
            )
            losses[f"class_{number}"] = stage.weight * classes
            losses[f"box_{number}"] = stage.weight * box
        return losses

    @torch.no_grad()
    def decode(
        self, outputs: CascadeRCNNOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are soft-max probabilities of the classes, of the
        stages' mean logits as in MMDetection."""
        last = outputs.stages[-1]
        if last.samples is not None or outputs.sizes != tuple(image_sizes):
            outputs = self._look(outputs.maps, outputs.rpn, outputs.canvas, image_sizes, None)
            last = outputs.stages[-1]
        counts = [len(regions) for regions in last.regions]
        logits = torch.stack([stage.class_logits.float() for stage in outputs.stages]).mean(dim=0)
        scores = torch.split(logits.softmax(dim=1)[:, :-1], counts)
        deltas = torch.split(last.boxes.float(), counts)
        return [
            region_candidates(
                scores[image],
                deltas[image],
                last.regions[image],
                coder=self.stages[-1].coder,
                score_threshold=self.score_threshold,
                size=size,
            )
            for image, size in enumerate(image_sizes)
        ]

    def _look(
        self,
        maps: tuple[Tensor, ...],
        rpn: RPNOutputs,
        canvas: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target] | None,
    ) -> CascadeRCNNOutputs:
        """The stages on proposals, or with targets on samples of their regions."""
        regions, found = self.rpn.propose(rpn, canvas, sizes), []
        for head, stage in zip(self.heads, self.stages, strict=True):
            assert isinstance(head, RegionHead)
            samples = None
            if targets is not None:
                samples = sample_regions(
                    regions,
                    targets,
                    assigner=stage.criterion.assigner,
                    sampler=self.sampler,
                    num_classes=head.num_classes,
                )
                regions = samples.regions
            logits, boxes = head(self.pooler(maps, regions))
            found.append(StageOutputs(regions, logits, boxes, samples))
            regions = _refined(found[-1], stage.coder, sizes)
        return CascadeRCNNOutputs(rpn, tuple(found), maps, tuple(sizes), canvas)


@torch.no_grad()
def _refined(
    raw: StageOutputs, coder: DeltaCoder, sizes: Sequence[tuple[int, int]]
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


def build_cascade_rcnn(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    neck: Mapping[str, Any],
    rpn: Mapping[str, Any],
    pooler: Mapping[str, Any],
    head: Mapping[str, Any],
    stage_ious: Sequence[float],
    stage_stds: Sequence[Sequence[float]],
    stage_weights: Sequence[float],
    sampler: Mapping[str, Any],
    class_loss: Mapping[str, Any],
    box_loss: Mapping[str, Any],
    score_threshold: float,
    enlarge_small: Mapping[str, float] | None,
) -> CascadeRCNN:
    """Cascade R-CNN from the model section of a recipe."""
    trunk, pyramid = build_pyramid(backbone, neck)
    pool = build_pooler(pyramid.strides, **pooler)
    in_features = pool.num_features(pyramid.out_channels)
    stages = []
    for iou, stds, weight in zip(stage_ious, stage_stds, stage_weights, strict=True):
        assigner = {
            "name": "max_iou", "positive_iou": iou, "negative_iou": iou, "min_positive_iou": None,
        }  # fmt: skip
        criterion = build_criterion(
            assigner=assigner, enlarge_small=enlarge_small, class_loss=class_loss, box_loss=box_loss
        )
        stages.append(Stage(criterion, DeltaCoder(stds), weight))
    return CascadeRCNN(
        trunk,
        pyramid,
        build_rpn(pyramid.out_channels, pyramid.strides, enlarge_small=enlarge_small, **rpn),
        [
            RegionHead(in_features, num_classes=num_classes, class_agnostic=True, **head)
            for _ in stages
        ],
        pooler=pool,
        stages=stages,
        sampler=RandomSampler(**sampler),
        score_threshold=score_threshold,
    )
