"""Path aggregation network (arXiv 1803.01534): a feature pyramid, and a short way up again.

Letters: B images, D channels of every level; level l has stride 2^l.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from detcli.layers.conv import Conv2d
from detcli.models.necks.fpn import FPN, same_size, start

if TYPE_CHECKING:
    from detcli.recipe.sections.network import TopDown


class PAN(FPN):
    """The levels of an FPN, and each gets a strided 3x3 convolution of the finer one added and a
    3x3 convolution of its own. What is sent up is the sum before that last convolution, and
    nothing is normed or activated (the paper: after it, with ReLUs), as in MMDetection's PAFPN.
    """

    def __init__(self, in_channels: Sequence[int], options: TopDown) -> None:
        super().__init__(in_channels, options)
        channels, conv = self.out_channels, options.conv
        steps = range(len(self.lateral) - 1)
        self.downsample = nn.ModuleList(Conv2d(channels, channels, 3, 2) for _ in steps)
        self.bottom_up = nn.ModuleList(same_size(conv, channels) for _ in steps)
        start((*self.downsample, *self.bottom_up))

    def own_levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The levels that the backbone has too, (B, D, h, w), finest first."""
        sums = super().own_levels(maps)
        for step, (finer, coarser) in zip(self.downsample, pairwise(sums), strict=True):
            coarser.add_(step(finer))
        outputs = (output(x) for output, x in zip(self.bottom_up, sums[1:], strict=True))
        return [sums[0], *outputs]
