"""Nested fusion with dense skip connections (UNet++, arXiv 1807.10165), as a pyramid.

Letters: B images, D channels of every map, L maps of the backbone that are used; h, w cells. Map
(i, j) is in row i, finest first, and column j.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, ConvNorm, zero_bias
from detcli.models.necks.extra import BACKBONE_LEVELS, ExtraLevels
from detcli.models.necks.fpn import start

if TYPE_CHECKING:
    from detcli.recipe.sections.models.two_stage import PooledNested
    from detcli.recipe.sections.network import NestedNeck


class UNetPP(nn.Module):
    """Column 0 are laterals of the backbone's maps. Map (i, j) is a 3x3 convolution, norm and ReLU
    of all maps before it in its row and of (i + 1, j - 1), enlarged to its grid; so each column has
    one row less. A level is the last map of its row, with a 3x3 output; levels above 5 as in `FPN`.

    deep_supervision: in training the pyramids that end in an earlier column, from 1 on, follow the
    last one along the batch: (B (L - 1), D, h, w). The parts behind the neck then learn the mean
    over them. (The paper has an output of its own for each.)
    """

    def __init__(self, in_channels: Sequence[int], options: NestedNeck | PooledNested) -> None:
        super().__init__()
        out_channels, norm = options.out_channels, options.norm
        self.skipped = BACKBONE_LEVELS.index(options.min_level)
        used = list(in_channels[self.skipped :])
        self.deep_supervision = options.deep_supervision
        self.out_channels = out_channels
        self.strides = tuple(2**level for level in range(options.min_level, options.max_level + 1))
        self.lateral = nn.ModuleList(Conv2d(channels, out_channels, 1) for channels in used)
        self.columns = nn.ModuleList(
            nn.ModuleList(_node(column + 1, out_channels, norm) for _ in range(len(used) - column))
            for column in range(1, len(used))
        )
        self.output = nn.ModuleList(Conv2d(out_channels, out_channels, 3) for _ in used)
        self.extra = ExtraLevels(options, last_channels=used[-1])
        start((*self.lateral, *self.output, *self.extra))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, D, h, w) per level, finest first, from C2 to C5."""
        used = maps[self.skipped :]
        rows = [[lateral(x)] for lateral, x in zip(self.lateral, used, strict=True)]
        for column, nodes in enumerate(self.columns, start=1):
            assert isinstance(nodes, nn.ModuleList)
            for index, node in enumerate(nodes):
                row, size = rows[index], rows[index][0].shape[-2:]
                below = F.interpolate(rows[index + 1][column - 1], size=size, mode="nearest")
                row.append(node(torch.cat([*row, below], dim=1)))
        last = len(self.columns)
        if not (self.training and self.deep_supervision):
            return self._pyramid(rows, last, maps[-1])
        pyramids = [self._pyramid(rows, column, maps[-1]) for column in range(last, 0, -1)]
        return tuple(torch.cat(levels) for levels in zip(*pyramids, strict=True))

    def _pyramid(
        self, rows: Sequence[Sequence[Tensor]], column: int, last: Tensor
    ) -> tuple[Tensor, ...]:
        """The levels from the maps of a column, in shorter rows from the last one."""
        chosen = [row[min(column, len(row) - 1)] for row in rows]
        own = [output(x) for output, x in zip(self.output, chosen, strict=True)]
        return self.extra.above(own, last)


def _node(count: int, channels: int, norm: str) -> ConvNorm:
    node = ConvNorm(count * channels, channels, 3, norm=norm, bias=norm == "none")
    nn.init.kaiming_normal_(node.conv.weight, nonlinearity="relu")
    zero_bias(node.conv)
    return node
