"""The levels of a pyramid above those of the backbone (arXiv 1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d

if TYPE_CHECKING:
    from detcli.recipe.sections import network

BACKBONE_LEVELS = (2, 3, 4, 5)


class ExtraLevels(nn.ModuleList):
    """Strided 3x3 convolutions, one per level.

    options: extra_from, the first reads the backbone's last map, of `last_channels` ("c5"), or the
    coarsest level so far ("p5"); "pool": each level is every second cell of the one before, without
    a convolution. extra_relu: ReLU before each convolution but the first.
    """

    def __init__(self, options: network.ExtraLevels, *, last_channels: int) -> None:
        channels, source = options.out_channels, options.extra_from
        count = options.max_level - BACKBONE_LEVELS[-1]
        first = last_channels if source == "c5" else channels
        super().__init__(
            Conv2d(first if index == 0 else channels, channels, 3, 2)
            for index in range(0 if source == "pool" else count)
        )
        self.count = count
        self.source = source
        self.relu = options.extra_relu

    def above(self, levels: Sequence[Tensor], last: Tensor) -> tuple[Tensor, ...]:
        """`levels` (B, D, h, w), finest first, and the coarser ones behind them; `last` is the
        backbone's last map."""
        whole = list(levels)
        if self.source == "pool":
            for _ in range(self.count):
                whole.append(whole[-1][:, :, ::2, ::2])
            return tuple(whole)
        x = last if self.source == "c5" else whole[-1]
        for index, extra in enumerate(self):
            x = extra(F.relu(x) if self.relu and index > 0 else x)
            whole.append(x)
        return tuple(whole)
