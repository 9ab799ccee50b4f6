"""A predicted density beside each box: how far its object overlaps with another one (Adaptive NMS,
Liu et al. 2019, arXiv 1904.03629).

Letters: B images, P priors of one image, A priors per cell, D channels of a map, G objects of the
batch, M positives of the batch; h, w cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, init_normal
from detcli.models.dense.matching import Matches
from detcli.models.dense.tower import flatten_levels
from detcli.ops.boxes import pairwise_iou
from detcli.types import Target

REDUCTION = 4  # of the map's channels


class DensityNet(nn.Module):
    """Three convolutions (section 3.3): a 1x1 reduces the map, a 3x3 sees it beside the objectness
    and the boxes that were predicted from it, and a 5x5 looks at what is around an object.

    Objectness and boxes are constants for the gradient.
    """

    def __init__(self, channels: int, num_anchors: int) -> None:
        super().__init__()
        hidden = channels // REDUCTION
        self.reduce = Conv2d(channels, hidden, 1)
        self.mix = Conv2d(hidden + 5 * num_anchors, hidden, 3)
        self.predict = Conv2d(hidden, num_anchors, 5)
        for layer in (self.reduce, self.mix, self.predict):
            init_normal(layer)

    def forward(self, x: Tensor, objectness: Tensor, boxes: Tensor) -> Tensor:
        """Densities (B, A, h, w) from a map (B, D, h, w), logits of "there is an object" (B, A, h,
        w) and what the box branch predicts (B, A * 4, h, w), before any activation."""
        reduced = F.relu_(self.reduce(x))
        seen = torch.cat([reduced, objectness.detach(), boxes.detach()], dim=1)
        density: Tensor = self.predict(F.relu_(self.mix(seen)))
        return density


@dataclass(frozen=True)
class DensityBranch:
    """How the density is learned: weight is the factor of the loss."""

    weight: float

    def loss(self, maps: tuple[Tensor, ...], matches: Matches, targets: Sequence[Target]) -> Tensor:
        """Smooth L1 loss, summed over the positives, of the densities, maps (B, A, h, w), against
        those of their objects."""
        predicted = flatten_levels(maps, 1).flatten()[matches.positive].float()
        wanted = object_densities(targets)[matches.objects]
        return self.weight * F.smooth_l1_loss(predicted, wanted, reduction="sum")


@torch.no_grad()
def object_densities(targets: Sequence[Target]) -> Tensor:
    """(G,) the largest IoU of each object with another one of its class in its image, 0 where it
    has no other; image after image.

    The paper has a single class. Suppression compares the boxes of one class, so that another
    class does not crowd an object.
    """
    densities = [targets[0].boxes.new_zeros(0)]
    for target in targets:
        if len(target.labels) == 0:
            continue
        iou = pairwise_iou(target.boxes, target.boxes)
        iou = iou.where(target.labels[:, None] == target.labels, 0.0)
        densities.append(iou.fill_diagonal_(0.0).amax(dim=1))
    return torch.cat(densities)


def level_densities(maps: tuple[Tensor, ...]) -> list[Tensor]:
    """(B, P) predicted densities of each level, limited to 0 to 1, from maps (B, A, h, w)."""
    return [flatten_levels((level,), 1).squeeze(2).float().clamp(0, 1) for level in maps]
