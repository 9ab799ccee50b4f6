"""Features of regions, from the level of a pyramid that fits their size.

Letters: R regions of the batch, D channels, L levels; h, w cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from detcli.ops.boxes import box_area, box_centers

if TYPE_CHECKING:
    from detcli.recipe.sections.models.two_stage import Pooler

COARSEST_STRIDE = 32  # of the levels that regions come from: further ones serve the first stage
LEVEL_EPS = 1e-6  # a side of exactly 2^k scales, but for rounding, belongs to the coarser level


class RegionPooler(nn.Module):
    """A grid of side x side values for each region, from its level (FPN, arXiv 1612.03144,
    equation 1).

    strides: pixels per cell of the levels, the finest first; those above 32 are for the first stage
    alone. options: scale, regions from this many strides of a level on come from it, those of twice
    as many from the next one. name: "roi_align" (Mask
    R-CNN, arXiv 1703.06870) takes bilinear samples, sampling_ratio^2 for each value, or with 0 one
    per cell that it covers; aligned: cell centres lie at half a cell (without, everything is read
    half a cell too far to the right and below, as at first published). "roi_pool" (Fast R-CNN,
    arXiv 1504.08083) rounds region and parts to whole cells and takes the largest value.

    context: pools a region with sides longer by this factor about the same centre as well, from the
    level that fits it, and joins the channels of both (MS-CNN, arXiv 1607.07155, section 3.4, which
    then halves them by a convolution); None: the region alone.
    """

    def __init__(self, strides: Sequence[int], options: Pooler) -> None:
        super().__init__()
        self.strides = tuple(stride for stride in strides if stride <= COARSEST_STRIDE)
        self.options = options

    def forward(self, maps: Sequence[Tensor], regions: Sequence[Tensor]) -> Tensor:
        """(R, D, side, side) float32, with context (R, 2 D, side, side), regions image after image,
        from the first L of maps (B, D, h, w) and regions (r, 4) xyxy pixels of each image."""
        context = self.options.context
        if context is None:
            return self._of_levels(maps, regions)
        around = [_enlarged(rows, context) for rows in regions]
        return torch.cat([self._of_levels(maps, rows) for rows in (regions, around)], dim=1)

    def num_features(self, channels: int) -> int:
        """Values of one region, of maps with this many channels."""
        return channels * self.options.side**2 * (1 if self.options.context is None else 2)

    def levels(self, boxes: Tensor) -> Tensor:
        """(R,) int64 place of the level of each of the boxes (R, 4)."""
        finest = self.options.scale * self.strides[0]
        octave = (box_area(boxes).sqrt() / finest + LEVEL_EPS).log2().floor()
        return octave.clamp(0, len(self.strides) - 1).long()

    def _of_levels(self, maps: Sequence[Tensor], regions: Sequence[Tensor]) -> Tensor:
        boxes = torch.cat([*regions, maps[0].new_zeros(0, 4, dtype=torch.float32)])
        image = torch.repeat_interleave(boxes.new_tensor([len(rows) for rows in regions]).long())
        level = self.levels(boxes)
        rows = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)  # (R, 5)
        pooled, places = [], []
        for index, stride in enumerate(self.strides):
            place = (level == index).nonzero().squeeze(1)
            pooled.append(self._pool(maps[index], rows[place], 1 / stride))
            places.append(place)
        back = torch.cat(places).argsort()
        return torch.cat(pooled)[back]

    def _pool(self, features: Tensor, rows: Tensor, scale: float) -> Tensor:
        """(r, D, side, side) of a level, in float32, because places are too coarse in bfloat16."""
        side, ratio, aligned = self.options.side, self.options.sampling_ratio, self.options.aligned
        with torch.autocast(features.device.type, enabled=False):
            pooled: Tensor
            if self.options.name == "roi_pool":
                pooled = roi_pool(features.float(), rows, side, scale)
            else:
                pooled = roi_align(features.float(), rows, side, scale, ratio, aligned)
            return pooled


def _enlarged(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (R, 4) with sides longer by `factor` about their centres."""
    center, half = box_centers(boxes), (boxes[:, 2:] - boxes[:, :2]) * (factor / 2)
    return torch.cat([center - half, center + half], dim=1)
