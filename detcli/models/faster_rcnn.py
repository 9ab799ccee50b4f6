"""Faster R-CNN on a feature pyramid (arXiv 1506.01497, 1612.03144).

Letters: B images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detcli.assign import RandomSampler
from detcli.losses import KL
from detcli.models.dense.terms import Criterion, build_criterion
from detcli.models.detector import Detector
from detcli.models.pyramid import build_pyramid
from detcli.models.two_stage.first_stage import FirstStage, first_stage
from detcli.models.two_stage.guided_rpn import GuidedRPN
from detcli.models.two_stage.regions import (
    RegionHead,
    RegionOutputs,
    look_at_regions,
    region_candidates,
    region_losses,
)
from detcli.models.two_stage.roi_pool import RegionPooler, build_pooler
from detcli.models.two_stage.rpn import RPN, build_rpn
from detcli.ops.coders import BoxCoder, DeltaCoder
from detcli.types import Candidates, Target


class FasterRCNNOutputs(NamedTuple):
    """Raw predictions of both stages."""

    first: FirstStage
    second: RegionOutputs


class FasterRCNN(Detector):
    """Proposals, then a class and a box for each.

    With targets the second stage looks at samples of the proposals and at the objects' own boxes,
    otherwise at all proposals. Proposals are constants for the gradient.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: RPN | GuidedRPN,
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
        any; None: all of the batch.
        """
        first = first_stage(
            images, self.backbone, self.neck, self.rpn, targets=targets, sizes=sizes
        )
        second = look_at_regions(
            self.head,
            self.pooler,
            first.maps,
            self.rpn.propose(first.rpn, first.canvas, first.sizes),
            targets,
            assigner=self.criterion.assigner,
            sampler=self.sampler,
        )
        return FasterRCNNOutputs(first, second)

    def loss(self, outputs: FasterRCNNOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms of the first stage, such as "rpn_class" and "rpn_box", and "class" and "box",
        float32 scalars with their weights, for outputs of a forward pass with the same targets."""
        classes, box = region_losses(self.criterion, self.coder, outputs.second)
        losses = self.rpn.loss(outputs.first.rpn, targets, outputs.first.canvas)
        return losses | {"class": classes, "box": box}

    @torch.no_grad()
    def decode(
        self, outputs: FasterRCNNOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are the soft-max probabilities of the classes. With the
        KL loss they have the column `sigma`, with a density branch `density`."""
        return region_candidates(
            outputs.second,
            outputs.second.class_logits,
            self.coder,
            score_threshold=self.score_threshold,
            sizes=image_sizes,
        )


def build_with(
    build_first: Callable[..., RPN | GuidedRPN],
    /,
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
    density_branch: Mapping[str, float] | None,
    enlarge_small: Mapping[str, float] | None,
) -> FasterRCNN:
    """Faster R-CNN from the model section of a recipe, with what `build_first` makes of `rpn`."""
    trunk, pyramid = build_pyramid(backbone, neck)
    pool = build_pooler(pyramid.strides, **pooler)
    return FasterRCNN(
        trunk,
        pyramid,
        build_first(
            pyramid.out_channels,
            pyramid.strides,
            enlarge_small=enlarge_small,
            density_branch=density_branch,
            **rpn,
        ),
        RegionHead(
            pool.num_features(pyramid.out_channels),
            num_classes=num_classes,
            class_agnostic=False,
            sigma=box_loss["name"] == KL,
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


build_faster_rcnn = partial(build_with, build_rpn)
