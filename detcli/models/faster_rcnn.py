"""Faster R-CNN on a feature pyramid (arXiv 1506.01497, 1612.03144).

Letters: B images, R regions of the batch, r regions of one image, C classes; h, w cells of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detcli.assign import RandomSampler
from detcli.models.heads.regions import (
    RegionHead,
    Samples,
    region_candidates,
    region_losses,
    sample_regions,
)
from detcli.models.heads.roi_pool import RegionPooler, build_pooler
from detcli.models.heads.rpn import RPN, RPNOutputs, build_rpn
from detcli.models.heads.terms import Criterion, build_criterion
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import BoxCoder, DeltaCoder
from detcli.types import Candidates, Target


class FasterRCNNOutputs(NamedTuple):
    """Raw predictions.

    rpn: of the first stage; regions: (r, 4) xyxy of each image, what the second stage looked at;
    class_logits (R, C + 1), background last, and boxes (R, 4 C), deltas of each class, of all of
    them; samples: what they should learn, None without targets; maps (B, D, h, w): of the neck;
    sizes: (height, width) of the images, at which proposals were cut; canvas: that of the padded
    batch.
    """

    rpn: RPNOutputs
    regions: tuple[Tensor, ...]
    class_logits: Tensor
    boxes: Tensor
    samples: Samples | None
    maps: tuple[Tensor, ...]
    sizes: tuple[tuple[int, int], ...]
    canvas: tuple[int, int]


class FasterRCNN(nn.Module):
    """Proposals, then a class and a box for each.

    With targets the second stage looks at samples of the proposals and at the objects' own boxes,
    otherwise at all proposals. Proposals are constants for the gradient.
    """

    cuts_proposals = True  # forward can use the sizes of the images inside the batch

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: RPN,
        head: RegionHead,
        *,
        pooler: RegionPooler,
        coder: BoxCoder,
        criterion: Criterion,
        sampler: RandomSampler,
        score_threshold: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.head = head
        self.pooler = pooler
        self.coder = coder
        self.criterion = criterion
        self.sampler = sampler
        self.score_threshold = score_threshold

    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> FasterRCNNOutputs:
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

    def loss(self, outputs: FasterRCNNOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "rpn_class", "rpn_box", "class" and "box", float32 scalars with their weights, for
        outputs of a forward pass with the same targets."""
        assert outputs.samples is not None, "a loss needs a forward pass with targets"
        classes, box = region_losses(
            self.criterion, self.coder, outputs.class_logits, outputs.boxes, outputs.samples
        )
        first = self.rpn.loss(outputs.rpn, targets, outputs.canvas)
        return first | {"class": classes, "box": box}

    @torch.no_grad()
    def decode(
        self, outputs: FasterRCNNOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are the soft-max probabilities of the classes."""
        if outputs.samples is not None or outputs.sizes != tuple(image_sizes):
            outputs = self._look(outputs.maps, outputs.rpn, outputs.canvas, image_sizes, None)
        counts = [len(regions) for regions in outputs.regions]
        probabilities = outputs.class_logits.float().softmax(dim=1)
        scores = torch.split(probabilities[:, :-1], counts)
        deltas = torch.split(outputs.boxes.float(), counts)
        return [
            region_candidates(
                scores[image],
                deltas[image],
                outputs.regions[image],
                coder=self.coder,
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
    ) -> FasterRCNNOutputs:
        """The second stage on proposals, or with targets on samples of them."""
        regions, samples = self.rpn.propose(rpn, canvas, sizes), None
        if targets is not None:
            samples = sample_regions(
                regions,
                targets,
                assigner=self.criterion.assigner,
                sampler=self.sampler,
                num_classes=self.head.num_classes,
            )
            regions = samples.regions
        logits, boxes = self.head(self.pooler(maps, regions))
        return FasterRCNNOutputs(rpn, regions, logits, boxes, samples, maps, tuple(sizes), canvas)


def build_faster_rcnn(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    neck: Mapping[str, Any],
    rpn: Mapping[str, Any],
    pooler: Mapping[str, Any],
    head: Mapping[str, Any],
    assigner: Mapping[str, Any],
    sampler: Mapping[str, Any],
    delta_stds: Sequence[float],
    class_loss: Mapping[str, Any],
    box_loss: Mapping[str, Any],
    score_threshold: float,
    enlarge_small: Mapping[str, float] | None,
) -> FasterRCNN:
    """Faster R-CNN from the model section of a recipe."""
    trunk, pyramid = build_pyramid(backbone, neck)
    pool = build_pooler(pyramid.strides, **pooler)
    return FasterRCNN(
        trunk,
        pyramid,
        build_rpn(pyramid.out_channels, pyramid.strides, enlarge_small=enlarge_small, **rpn),
        RegionHead(
            pool.num_features(pyramid.out_channels),
            num_classes=num_classes,
            class_agnostic=False,
            **head,
        ),
        pooler=pool,
        coder=DeltaCoder(delta_stds),
        criterion=build_criterion(
            assigner=assigner, enlarge_small=enlarge_small, class_loss=class_loss, box_loss=box_loss
        ),
        sampler=RandomSampler(**sampler),
        score_threshold=score_threshold,
    )
