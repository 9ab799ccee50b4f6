"""A detector that proposes regions and then looks at each: once (Faster R-CNN), or in stages.

Letters: B images, D channels of a map, r regions of one image; h, w cells of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from detcli.assign import RandomSampler
from detcli.models.dense.density_branch import DensityBranch
from detcli.models.detector import Detector, sizes_of
from detcli.models.pyramid import build_pyramid
from detcli.models.two_stage.guided_rpn import GuidedRPN
from detcli.models.two_stage.regions import (
    RegionHead,
    RegionOutputs,
    Stage,
    image_candidates,
    region_losses,
    region_priors,
    sample_regions,
)
from detcli.models.two_stage.roi_pool import RegionPooler
from detcli.models.two_stage.rpn import RPN, Proposals
from detcli.ops.boxes import clip_boxes
from detcli.ops.coders import DeltaCoder
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models import two_stage


class FirstStage(NamedTuple):
    """maps (B, D, h, w): of the neck; rpn: raw predictions of the first network, in its own type;
    sizes: (height, width) of the images, at which regions are cut; canvas: that of the padded
    batch."""

    maps: tuple[Tensor, ...]
    rpn: Any
    sizes: tuple[tuple[int, int], ...]
    canvas: tuple[int, int]


class RegionDetectorOutputs(NamedTuple):
    """Raw predictions of the first network and of the looks after it."""

    first: FirstStage
    stages: tuple[RegionOutputs, ...]


class RegionDetector(Detector):
    """Proposals, then a class and a box for each. Every further stage starts from the boxes of the
    one before; scores are the mean over the stages, boxes those of the last one.

    With targets a stage looks at samples of its regions and at the objects' own boxes, which do not
    go on to the next stage, otherwise at all regions. Regions are constants for the gradient.
    head: of the only stage, or a list with that of each, which are then numbered in the losses.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: RPN | GuidedRPN,
        head: nn.Module,
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
        self.numbered = isinstance(head, nn.ModuleList)
        self.add_module("heads" if self.numbered else "head", head)
        self.pooler = pooler
        self.stages = tuple(stages)
        self.sampler = sampler
        self.score_threshold = score_threshold

    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> RegionDetectorOutputs:
        """Raw predictions for images (B, 3, H, W), for losses with targets, for candidates without.

        sizes: (height, width) of the valid part of each image, from the targets where there are
        any; None: all of the batch.
        """
        canvas = (images.shape[-2], images.shape[-1])
        maps = self.neck(self.backbone(images))
        valid = sizes_of(targets, sizes, canvas, len(images))
        first = FirstStage(maps, self.rpn(maps), valid, canvas)
        proposals = self.rpn.propose(first.rpn, canvas, valid)
        found: list[RegionOutputs] = []
        heads = [part for part in self.modules() if isinstance(part, RegionHead)]
        for head, stage in zip(heads, self.stages, strict=True):
            if found:
                coder = self.stages[len(found) - 1].coder
                proposals = Proposals(_refined(found[-1], coder, valid), densities=())
            found.append(self._look(head, stage, maps, proposals, targets))
        return RegionDetectorOutputs(first, tuple(found))

    def loss(self, outputs: RegionDetectorOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms of the first stage, such as "rpn_class" and "rpn_box", and "class" and "box",
        of numbered stages "class_1", "box_1" and so on; float32 scalars with their weights, for
        outputs of a forward pass with the same targets."""
        losses = self.rpn.loss(outputs.first.rpn, targets, outputs.first.canvas)
        for number, (stage, raw) in enumerate(zip(self.stages, outputs.stages, strict=True), 1):
            classes, box = region_losses(stage.criterion, stage.coder, raw)
            suffix = f"_{number}" if self.numbered else ""
            losses[f"class{suffix}"] = stage.weight * classes
            losses[f"box{suffix}"] = stage.weight * box
        return losses

    @torch.no_grad()
    def decode(
        self, outputs: RegionDetectorOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image, best first; scores are soft-max probabilities of the classes,
        of the stages' mean logits as in MMDetection. With the KL loss they have the column `sigma`,
        with a density branch `density`."""
        last = outputs.stages[-1]
        assert last.samples is None, "candidates need a forward pass without targets"
        logits = torch.stack([raw.class_logits.float() for raw in outputs.stages]).mean(dim=0)
        counts = [len(regions) for regions in last.regions]
        scores = torch.split(logits.softmax(dim=1)[:, :-1], counts)
        deltas = torch.split(last.boxes.float(), counts)
        columns: dict[str, Sequence[Tensor]] = {}
        if last.sigma is not None:
            columns["sigma"] = torch.split(last.sigma.float(), counts)
        if last.densities:
            columns["density"] = last.densities
        return [
            image_candidates(
                scores[image],
                deltas[image],
                last.regions[image],
                coder=self.stages[-1].coder,
                score_threshold=self.score_threshold,
                size=size,
                columns={name: images[image] for name, images in columns.items()},
            )
            for image, size in enumerate(image_sizes)
        ]

    def _look(
        self,
        head: RegionHead,
        stage: Stage,
        maps: Sequence[Tensor],
        proposals: Proposals,
        targets: Sequence[Target] | None,
    ) -> RegionOutputs:
        """What a stage makes of proposals on maps (B, D, h, w), with targets of samples of them."""
        (regions, densities), samples = proposals, None
        if targets is not None:
            samples = sample_regions(
                regions,
                targets,
                assigner=stage.criterion.assigner,
                sampler=self.sampler,
                num_classes=head.num_classes,
            )
            regions, densities = samples.regions, ()
        logits, boxes, sigma = head(self.pooler(maps, regions))
        return RegionOutputs(regions, logits, boxes, sigma, densities, samples)


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


def build_region_detector(
    options: two_stage.RegionDetector,
    stages: Sequence[Stage],
    build_head: Callable[[int], nn.Module],
    *,
    build_first: Callable[..., RPN | GuidedRPN],
    density: DensityBranch | None,
) -> RegionDetector:
    """The detector of a model section: build_head makes its head, or the list of them, for so many
    features of a region, build_first its region proposal network."""
    trunk, pyramid = build_pyramid(options.backbone, options.neck)
    channels, strides, enlarge = pyramid.out_channels, pyramid.strides, options.enlarge_small
    pooler = RegionPooler(strides, options.pooler)
    return RegionDetector(
        trunk,
        pyramid,
        build_first(channels, strides, options.rpn, enlarge_small=enlarge, density=density),
        build_head(pooler.num_features(channels)),
        pooler=pooler,
        stages=stages,
        sampler=RandomSampler(options.sampler.num, options.sampler.positive_share),
        score_threshold=options.score_threshold,
    )
