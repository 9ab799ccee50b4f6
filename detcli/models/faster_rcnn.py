"""Faster R-CNN on a feature pyramid (arXiv 1506.01497, 1612.03144).

Letters: B images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from detcli.assign import RandomSampler, build_assigner
from detcli.losses import KL
from detcli.models.dense.density_branch import DensityBranch
from detcli.models.dense.terms import build_criterion
from detcli.models.detector import Detector
from detcli.models.pyramid import build_pyramid
from detcli.models.two_stage.first_stage import FirstStage, first_stage
from detcli.models.two_stage.guided_rpn import GuidedRPN
from detcli.models.two_stage.regions import (
    RegionHead,
    RegionOutputs,
    Stage,
    look_at_regions,
    region_candidates,
    region_losses,
)
from detcli.models.two_stage.roi_pool import RegionPooler
from detcli.models.two_stage.rpn import RPN, build_rpn
from detcli.ops.coders import DeltaCoder
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.two_stage import OneLook


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
        stage: Stage,
        sampler: RandomSampler,
        score_threshold: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.head = head
        self.pooler = pooler
        self.stage = stage
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
            assigner=self.stage.criterion.assigner,
            sampler=self.sampler,
        )
        return FasterRCNNOutputs(first, second)

    def loss(self, outputs: FasterRCNNOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms of the first stage, such as "rpn_class" and "rpn_box", and "class" and "box",
        float32 scalars with their weights, for outputs of a forward pass with the same targets."""
        classes, box = region_losses(self.stage.criterion, self.stage.coder, outputs.second)
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
            self.stage.coder,
            score_threshold=self.score_threshold,
            sizes=image_sizes,
        )


def build_with(
    build_first: Callable[..., RPN | GuidedRPN], options: OneLook, *, num_classes: int
) -> FasterRCNN:
    """Faster R-CNN from the model section of a recipe, with what `build_first` makes of `rpn`."""
    trunk, pyramid = build_pyramid(options.backbone, options.neck)
    channels, strides = pyramid.out_channels, pyramid.strides
    density = options.density_branch and DensityBranch(options.density_branch.weight)
    pooler = RegionPooler(strides, options.pooler)
    return FasterRCNN(
        trunk,
        pyramid,
        build_first(
            channels, strides, options.rpn, enlarge_small=options.enlarge_small, density=density
        ),
        RegionHead(
            pooler.num_features(channels),
            options.head,
            num_classes=num_classes,
            class_agnostic=False,
            sigma=options.box_loss.name == KL,
        ),
        pooler=pooler,
        stage=Stage(
            build_criterion(options, build_assigner(options.assigner)),
            DeltaCoder(options.delta_stds),
        ),
        sampler=RandomSampler(options.sampler.num, options.sampler.positive_share),
        score_threshold=options.score_threshold,
    )


build_faster_rcnn = partial(build_with, build_rpn)
