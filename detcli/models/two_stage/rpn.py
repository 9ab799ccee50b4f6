"""Region proposal network (Faster R-CNN, arXiv 1506.01497), on every level of a pyramid.

Letters: B images, A anchors per cell, P anchors of one image, N proposals of one image; h, w cells
of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from detcli.assign import IGNORED, Assigner, RandomSampler, build_assigner, enlarging, ignore_inside
from detcli.layers.conv import Conv2d, init_normal
from detcli.losses import ClassLoss, build_box_loss
from detcli.losses.classification import BinaryCrossEntropy
from detcli.models.dense.density_branch import DensityBranch, DensityNet, level_densities
from detcli.models.dense.matching import Matches, assign_batch, collect_matches
from detcli.models.dense.prior_grid import PriorGrid, build_anchors
from detcli.models.dense.terms import Criterion, box_term, class_term
from detcli.models.dense.tower import flatten_levels
from detcli.ops.boxes import clip_boxes
from detcli.ops.coders import DeltaCoder
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.phases import phase
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models import two_stage
    from detcli.recipe.sections.models.ga_faster_rcnn import GuidedRpn
    from detcli.recipe.sections.priors import EnlargedObjects

# Which anchors learn: all of the batch, those whose cell begins inside their image (padded to a
# multiple of 32), or those whose whole box lies inside it.
TrainedAnchors: TypeAlias = Literal["all", "cell_inside", "box_inside"]


class RPNOutputs(NamedTuple):
    """Raw predictions, one entry per level, channels anchor-major: class_logits (B, A, h, w) of
    "there is an object"; boxes (B, A * 4, h, w), deltas; density (B, A, h, w), empty without a
    density branch."""

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    density: tuple[Tensor, ...]


class Proposals(NamedTuple):
    """boxes (N, 4) xyxy of each image, best first; densities (N,) of each image, () where they are
    not predicted."""

    boxes: tuple[Tensor, ...]
    densities: tuple[Tensor, ...]


@dataclass(frozen=True)
class ProposalRule:
    """Which predictions become proposals.

    The best of each level are decoded and cut at the image's sides; boxes with a side of at most
    min_side_px are dropped, then those that overlap a better one of their level by more than
    iou_threshold; the best of all levels stay. coder: of the boxes.
    """

    options: two_stage.Proposals
    coder: DeltaCoder

    def limits(self, *, training: bool) -> two_stage.Limits:
        """How many anchors of a level become candidates, and how many proposals an image has."""
        return self.options.train if training else self.options.test

    def select(
        self,
        scores: Sequence[Tensor],
        encoded: Sequence[Tensor],
        priors: Sequence[Priors],
        limits: two_stage.Limits,
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Proposals (N, 4) xyxy of an image of `size` (height, width), best first, and the places
        (N,) int64 of their anchors among those of all levels; per level scores (p,) and deltas
        (p, 4) of its anchors. Equal scores: the earlier level, then anchor."""
        boxes, kept, levels, places, first = [], [], [], [], 0
        for level, (score, deltas, anchors) in enumerate(zip(scores, encoded, priors, strict=True)):
            order = score.argsort(descending=True, stable=True)[: limits.topk_per_level]
            decoded = self.coder.decode(deltas[order], anchors.take(order))
            clipped = clip_boxes(decoded, size)
            large = (clipped[:, 2:] - clipped[:, :2] > self.options.min_side_px).all(dim=1)
            boxes.append(clipped[large])
            kept.append(score[order][large])
            levels.append(torch.full_like(order[large], level))
            places.append(order[large] + first)
            first += len(anchors)
        joined, score = torch.cat(boxes), torch.cat(kept)
        # in the given order again, because ties come out in any
        threshold = self.options.iou_threshold
        survivors = batched_nms(joined, score, torch.cat(levels), threshold).sort().values
        best = score[survivors].argsort(descending=True, stable=True)[: limits.max_per_image]
        return joined[survivors[best]], torch.cat(places)[survivors[best]]


class RPN(nn.Module):
    """A 3x3 convolution with a ReLU, then for each anchor whether it is an object, and deltas.

    Its losses are those of `anchor_losses`. density: also predict the density of each anchor's
    object, from the same map; None: not.
    """

    def __init__(
        self,
        channels: int,
        *,
        anchors: PriorGrid,
        criterion: Criterion,
        sampler: RandomSampler,
        trained_anchors: TrainedAnchors,
        proposals: ProposalRule,
        density: DensityBranch | None,
    ) -> None:
        super().__init__()
        self.anchors = anchors
        self.criterion = criterion
        self.sampler = sampler
        self.trained_anchors = trained_anchors
        self.proposals = proposals
        self.conv = Conv2d(channels, channels, 3)
        self.class_logits = Conv2d(channels, anchors.num_anchors, 1)
        self.box = Conv2d(channels, anchors.num_anchors * 4, 1)
        for layer in (self.conv, self.class_logits, self.box):
            init_normal(layer)
        self.density_branch = density
        self.density = None if density is None else DensityNet(channels, anchors.num_anchors)

    def forward(self, maps: Sequence[Tensor]) -> RPNOutputs:
        """Raw predictions from maps (B, D, h, w)."""
        hidden = [F.relu_(self.conv(level)) for level in maps]
        logits = tuple(self.class_logits(level) for level in hidden)
        boxes = tuple(self.box(level) for level in hidden)
        density = () if self.density is None else tuple(map(self.density, maps, logits, boxes))
        return RPNOutputs(logits, boxes, density)

    def loss(
        self, outputs: RPNOutputs, targets: Sequence[Target], canvas: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms "rpn_class", "rpn_box" and, with that branch, "rpn_density", float32 scalars, of
        sampled anchors."""
        with torch.autocast(outputs.boxes[0].device.type, enabled=False):
            priors = self.anchors(outputs.boxes, canvas)
            matches = sampled_matches(self._assign(priors, targets), targets, self.sampler)
            positive = priors.take(matches.prior_index())
            return anchor_losses(
                self.criterion,
                self.proposals.coder,
                outputs,
                matches,
                positive,
                more=density_terms(self.density_branch, outputs.density, matches, targets),
            )

    @torch.no_grad()
    def propose(
        self, outputs: RPNOutputs, canvas: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> Proposals:
        """Proposals of each image inside its `sizes` (height, width); as many as the module's mode,
        training or not, allows. Without a gradient."""
        limits = self.proposals.limits(training=self.training)
        with torch.autocast(outputs.boxes[0].device.type, enabled=False):
            priors = self.anchors(outputs.boxes, canvas).split()
            scores, encoded = scores_and_deltas(outputs)
            chosen = [
                self.proposals.select(
                    [level[image] for level in scores],
                    [level[image] for level in encoded],
                    priors,
                    limits,
                    size,
                )
                for image, size in enumerate(sizes)
            ]
            return Proposals(
                tuple(boxes for boxes, _ in chosen),
                densities_at([places for _, places in chosen], outputs.density),
            )

    def _assign(self, priors: Priors, targets: Sequence[Target]) -> Tensor:
        """(B, P) int64 as `assign_batch` gives it."""
        assigner = self.criterion.assigner
        if self.trained_anchors == "box_inside":
            with phase("assignment"):
                grids, order = _by_shape(priors, self.anchors.num_anchors)
                return torch.stack(
                    [_assign_inside(assigner, grids, order, target) for target in targets]
                )
        padding: Literal["seen", "ignored"] = "seen" if self.trained_anchors == "all" else "ignored"
        return assign_batch(assigner, priors, targets, padding=padding)


def build_rpn(
    channels: int,
    strides: Sequence[int],
    options: two_stage.Rpn,
    *,
    enlarge_small: EnlargedObjects | None,
    density: DensityBranch | None,
) -> RPN:
    """The network on maps of these strides, from its section of a recipe."""
    return RPN(
        channels,
        anchors=build_anchors(strides, options.anchors),
        criterion=build_rpn_criterion(options, enlarge_small),
        sampler=RandomSampler(options.sampler.num, options.sampler.positive_share),
        trained_anchors=options.trained_anchors,
        proposals=ProposalRule(options.proposals, DeltaCoder()),
        density=density,
    )


def build_rpn_criterion(
    options: two_stage.Rpn | GuidedRpn, enlarge_small: EnlargedObjects | None
) -> Criterion:
    """Cross entropy of "there is an object", and the box loss of this section of a recipe."""
    return Criterion(
        enlarging(build_assigner(options.assigner), enlarge_small),
        ClassLoss(BinaryCrossEntropy(label_smoothing=0.0), weight=1.0),
        build_box_loss(options.box_loss),
        mining=None,
        small_box_factor=options.box_loss.small_box_factor,
        class_weights=None,
    )


def sampled_matches(matched: Tensor, targets: Sequence[Target], sampler: RandomSampler) -> Matches:
    """Objects of the anchors drawn from `matched` (B, P), which `assign_batch` made; the label of
    each object is 0, of background 1."""
    drawn = torch.stack([sampler(row) for row in matched])
    objects = [replace(target, labels=torch.zeros_like(target.labels)) for target in targets]
    return collect_matches(drawn, objects, num_classes=1)


def anchor_losses(
    criterion: Criterion,
    coder: DeltaCoder,
    outputs: Any,
    matches: Matches,
    positive: Priors,
    *,
    more: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Terms "rpn_class" and "rpn_box", float32 scalars, of outputs with `class_logits` and `boxes`
    as in `RPNOutputs`, and those of `more`; `positive`: the anchors (M,) that have an object.

    All are divided by the sum over the images of max(1, positives) + max(1, negatives), as in
    MMDetection.
    """
    negatives = (matches.labels == 1).sum(dim=1)
    sampled = matches.positives_per_image.clamp(min=1) + negatives.clamp(min=1)
    count = all_rank_mean(sampled.sum().float())
    encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)[matches.positive].float()
    classes = class_term(criterion, outputs.class_logits, matches.labels, 1, None, count)
    box = box_term(criterion, coder, encoded, matches, positive)
    others = {name: total / count for name, total in {"rpn_box": box, **more}.items()}
    return {"rpn_class": classes, **others}


def density_terms(
    branch: DensityBranch | None,
    maps: tuple[Tensor, ...],
    matches: Matches,
    targets: Sequence[Target],
) -> dict[str, Tensor]:
    """The term "rpn_density", summed over the anchors, where there is such a branch."""
    return {} if branch is None else {"rpn_density": branch.loss(maps, matches, targets)}


def densities_at(places: Sequence[Tensor], maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """(N,) of each image: the densities of maps (B, A, h, w) of the anchors at `places` (N,); () of
    no maps."""
    if not maps:
        return ()
    densities = torch.cat(level_densities(maps), dim=1)  # (B, P)
    return tuple(image[rows] for image, rows in zip(densities, places, strict=True))


def scores_and_deltas(outputs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Per level the probabilities (B, p) that its anchors are objects, and their deltas (B, p, 4),
    float32, of outputs with `class_logits` and `boxes` as in `RPNOutputs`."""
    scores = [
        flatten_levels((level,), 1).squeeze(2).float().sigmoid() for level in outputs.class_logits
    ]
    return scores, [flatten_levels((level,), 4).float() for level in outputs.boxes]


def _by_shape(priors: Priors, num_anchors: int) -> tuple[Priors, Tensor]:
    """The anchors with each shape of each level as a level of its own, and the (P,) places they
    had. Those of one shape that lie inside an image form a grid, in which assigners search fast;
    those of a level do not."""
    places = torch.arange(len(priors), device=priors.boxes.device)
    parts = [
        level.view(-1, num_anchors).T.flatten()
        for level in torch.split(places, list(priors.level_sizes))
    ]
    order = torch.cat(parts)
    sizes = tuple(size // num_anchors for size in priors.level_sizes for _ in range(num_anchors))
    taken = priors.take(order)
    return replace(taken, level_sizes=sizes), order


def _assign_inside(assigner: Assigner, grids: Priors, order: Tensor, target: Target) -> Tensor:
    """(P,) int64 for one image: IGNORED where the anchor's box leaves the image; the last column
    and row of pixels count as outside."""
    height, width = target.size
    boxes = grids.boxes
    inside = (
        (boxes[:, 0] >= 0) & (boxes[:, 1] >= 0) & (boxes[:, 2] < width) & (boxes[:, 3] < height)
    )
    matched = target.labels.new_full((len(order),), IGNORED)
    matched[order[inside]] = assigner(grids.select(inside), target.boxes)
    centers = torch.empty_like(grids.centers)
    centers[order] = grids.centers
    return ignore_inside(matched, centers, target.ignore_boxes)
