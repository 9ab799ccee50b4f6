"""Region proposal network whose anchors are predicted (GA-RPN, arXiv 1901.03278, section 3).

Letters: B images, D channels, P cells of one image, p of a level, N proposals of one image; h, w
cells of a level. One anchor per cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.assign import RandomSampler
from detcli.layers.conv import Conv2d, init_normal
from detcli.models.dense.density_branch import DensityBranch, DensityNet
from detcli.models.dense.terms import Criterion
from detcli.models.dense.tower import flatten_levels
from detcli.models.two_stage.guided import (
    FeatureAdaption,
    Guidance,
    assign_guided,
    joined_anchors,
    location_and_shape,
)
from detcli.models.two_stage.rpn import (
    ProposalRule,
    Proposals,
    anchor_losses,
    build_rpn_criterion,
    densities_at,
    density_terms,
    sampled_matches,
    scores_and_deltas,
)
from detcli.ops.coders import DeltaCoder
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.ga_faster_rcnn import GuidedRpn
    from detcli.recipe.sections.priors import EnlargedObjects


class GuidedRPNOutputs(NamedTuple):
    """Raw predictions, one entry per level.

    class_logits (B, 1, h, w) of "there is an object"; boxes (B, 4, h, w): deltas from the predicted
    anchors; shapes (B, 2, h, w): of the anchors, as `Guidance` reads them; locations (B, 1, h, w):
    logits of "there is an anchor"; density (B, 1, h, w), empty without a density branch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    shapes: tuple[Tensor, ...]
    locations: tuple[Tensor, ...]
    density: tuple[Tensor, ...]


class GuidedRPN(nn.Module):
    """A 3x3 convolution with a ReLU, then where anchors are and of what shape; adapted to that
    shape, whether each is an object, and deltas.

    Anchors whose cell lies in the padding of their image do not learn. In inference cells without
    a probable location make no proposals; in training all do. density: see `RPN`.
    """

    def __init__(
        self,
        channels: int,
        *,
        guidance: Guidance,
        criterion: Criterion,
        sampler: RandomSampler,
        proposals: ProposalRule,
        density: DensityBranch | None,
    ) -> None:
        super().__init__()
        self.guidance = guidance
        self.criterion = criterion
        self.sampler = sampler
        self.proposals = proposals
        self.conv = Conv2d(channels, channels, 3)
        self.location, self.shape = location_and_shape(channels)
        self.adaption = FeatureAdaption(channels)
        self.class_logits = Conv2d(channels, 1, 1)
        self.box = Conv2d(channels, 4, 1)
        for layer in (self.conv, self.class_logits, self.box):
            init_normal(layer)
        self.density_branch = density
        self.density = None if density is None else DensityNet(channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> GuidedRPNOutputs:
        """Raw predictions from maps (B, D, h, w)."""
        logits, boxes, shapes, locations = zip(*map(self._level, maps), strict=True)
        density = () if self.density is None else tuple(map(self.density, maps, logits, boxes))
        return GuidedRPNOutputs(logits, boxes, shapes, locations, density)

    def loss(
        self, outputs: GuidedRPNOutputs, targets: Sequence[Target], canvas: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Terms "rpn_class", "rpn_box" and, with that branch, "rpn_density" of sampled anchors,
        "rpn_location" and "rpn_shape" of `Guidance`, float32 scalars."""
        with torch.autocast(outputs.boxes[0].device.type, enabled=False):
            anchors = self.guidance.anchors(outputs.shapes, canvas)
            matched = assign_guided(self.criterion.assigner, anchors, targets)
            matches = sampled_matches(matched, targets, self.sampler)
            positive = joined_anchors(anchors).take(matches.positive)
            more = density_terms(self.density_branch, outputs.density, matches, targets)
            losses = anchor_losses(
                self.criterion, self.proposals.coder, outputs, matches, positive, more=more
            )
            guided = self.guidance.losses(outputs.locations, outputs.shapes, targets, canvas)
            return losses | {f"rpn_{name}": value for name, value in guided.items()}

    @torch.no_grad()
    def propose(
        self, outputs: GuidedRPNOutputs, canvas: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> Proposals:
        """Proposals of each image inside its `sizes` (height, width); as many as the module's mode,
        training or not, allows. Without a gradient."""
        limits = self.proposals.limits(training=self.training)
        with torch.autocast(outputs.boxes[0].device.type, enabled=False):
            anchors = self.guidance.anchors(outputs.shapes, canvas)
            scores, encoded = scores_and_deltas(outputs)
            there = self._cells_with_anchor(outputs.locations)
            proposals, places = [], []
            for image, size in enumerate(sizes):
                cells = [level[image].nonzero().squeeze(1) for level in there]
                own = anchors[image].split()
                boxes, rows = self.proposals.select(
                    [level[image][rows] for level, rows in zip(scores, cells, strict=True)],
                    [level[image][rows] for level, rows in zip(encoded, cells, strict=True)],
                    [level.take(rows) for level, rows in zip(own, cells, strict=True)],
                    limits,
                    size,
                )
                proposals.append(boxes)
                there_at = torch.cat([level[image] for level in there]).nonzero().squeeze(1)
                places.append(there_at[rows])
            return Proposals(tuple(proposals), densities_at(places, outputs.density))

    def _level(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class logits, boxes, shapes and locations of one level (B, D, h, w)."""
        hidden = F.relu_(self.conv(x))
        shape = self.shape(hidden)
        adapted = self.adaption(hidden, shape)
        return self.class_logits(adapted), self.box(adapted), shape, self.location(hidden)

    def _cells_with_anchor(self, locations: Sequence[Tensor]) -> list[Tensor]:
        """(B, p) bool of each level."""
        rows = [flatten_levels((level,), 1).squeeze(2) for level in locations]
        if self.training:
            return [torch.ones_like(level, dtype=torch.bool) for level in rows]
        threshold = self.guidance.options.location_threshold
        return [level.float().sigmoid() >= threshold for level in rows]


def build_guided_rpn(
    channels: int,
    strides: Sequence[int],
    options: GuidedRpn,
    *,
    enlarge_small: EnlargedObjects | None,
    density: DensityBranch | None,
) -> GuidedRPN:
    """The network on maps of these strides, from its section of a recipe."""
    return GuidedRPN(
        channels,
        guidance=Guidance(strides, options.guidance),
        criterion=build_rpn_criterion(options, enlarge_small),
        sampler=RandomSampler(options.sampler.num, options.sampler.positive_share),
        proposals=ProposalRule(options.proposals, DeltaCoder(options.delta_stds)),
        density=density,
    )
