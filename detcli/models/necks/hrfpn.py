"""The pyramid of HRNet: every level is pooled from one map (arXiv 1904.04514, HRNetV2p).

Letters: B images, D channels of every level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, zero_bias

if TYPE_CHECKING:
    from detcli.recipe.sections.models.two_stage import HrNeck

NUM_LEVELS = 5


class HRFPN(nn.Module):
    """All maps on the grid of the finest, joined, and brought to D channels by a 1x1 convolution;
    the levels are means of 1, 2^2, 4^2, ... of its cells, each with a 3x3 convolution."""

    def __init__(self, in_channels: Sequence[int], options: HrNeck) -> None:
        super().__init__()
        out_channels = self.out_channels = options.out_channels
        self.strides = tuple(4 * 2**level for level in range(NUM_LEVELS))
        self.reduce = Conv2d(sum(in_channels), out_channels, 1)
        self.output = nn.ModuleList(
            Conv2d(out_channels, out_channels, 3) for _ in range(NUM_LEVELS)
        )
        for part in (self.reduce, *self.output):
            assert isinstance(part, Conv2d)
            nn.init.kaiming_uniform_(part.weight, a=1)  # Xavier's, by the inputs alone
            zero_bias(part)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """P2 to P6 (B, D, h, w), finest first, from maps at strides 4, 8, 16 and 32."""
        size = maps[0].shape[-2:]
        finer = [
            x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear")
            for x in maps
        ]
        joined = self.reduce(torch.cat(finer, dim=1))
        levels = [joined, *(F.avg_pool2d(joined, 2**level) for level in range(1, NUM_LEVELS))]
        return tuple(output(x) for output, x in zip(self.output, levels, strict=True))
