"""Feature pyramid network (arXiv 1612.03144) with extra coarse levels (arXiv 1708.02002).

Letters: B images, D channels of every level; level l has stride 2^l.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.aspp import ASPP
from detcli.layers.blocks import build_block
from detcli.layers.conv import Conv2d, init_xavier
from detcli.layers.upsample import UPSAMPLERS
from detcli.models.necks.extra import BACKBONE_LEVELS, ExtraLevels

if TYPE_CHECKING:
    from detcli.recipe.sections.network import TopDown


class FPN(nn.Module):
    """Laterals, top-down sums, 3x3 outputs, and strided convolutions for levels above 5.

    options: extra_from and extra_relu, see `ExtraLevels`; upsample: "nearest", "carafe" or "duc",
    on the way down; conv: kind of the outputs, see `build_block`; aspp: the `ASPP` through which C5
    comes to its lateral, or None. No norm and no other activation but inside these.
    """

    def __init__(self, in_channels: Sequence[int], options: TopDown) -> None:
        super().__init__()
        out_channels, upsample, aspp = options.out_channels, options.upsample, options.aspp
        self.skipped = BACKBONE_LEVELS.index(options.min_level)
        used = list(in_channels[self.skipped :])
        self.out_channels = out_channels
        self.strides = tuple(2**level for level in range(options.min_level, options.max_level + 1))
        into = used if aspp is None else [*used[:-1], aspp.channels]
        self.lateral = nn.ModuleList(Conv2d(channels, out_channels, 1) for channels in into)
        self.output = nn.ModuleList(same_size(options.conv, out_channels) for _ in used)
        self.extra = ExtraLevels(options, last_channels=used[-1])
        start((*self.lateral, *self.output, *self.extra))
        self.upsample = nn.ModuleList(
            UPSAMPLERS[upsample](out_channels) for _ in used[1:] if upsample != "nearest"
        )
        self.aspp: ASPP | None = None
        if aspp is not None:
            self.aspp = ASPP(used[-1], channels=aspp.channels, rates=aspp.rates, norm=aspp.norm)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, D, h, w) per level, finest first, from C2 to C5."""
        return self.extra.above(self.own_levels(maps), maps[-1])

    def own_levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The levels that the backbone has too, (B, D, h, w), finest first."""
        used = list(maps[self.skipped :])
        if self.aspp is not None:
            used[-1] = self.aspp(used[-1])
        merged = [lateral(x) for lateral, x in zip(self.lateral, used, strict=True)]
        for index, (finer, coarser) in reversed(list(enumerate(pairwise(merged)))):
            finer.add_(self._enlarged(coarser, index, finer.shape[-2], finer.shape[-1]))
        return [output(x) for output, x in zip(self.output, merged, strict=True)]

    def _enlarged(self, coarser: Tensor, index: int, height: int, width: int) -> Tensor:
        """A coarser map on the grid of the next finer one, whose sides may be odd: nearest fits
        the grid to them, of the others the last row or column is left out (as in MMDetection)."""
        if len(self.upsample) == 0:
            return F.interpolate(coarser, size=(height, width), mode="nearest")
        fine: Tensor = self.upsample[index](coarser)
        return fine[:, :, :height, :width]


def same_size(conv: str, channels: int) -> nn.Module:
    """A 3x3 convolution, or what of `build_block` stands in its place."""
    if conv == "plain":
        return Conv2d(channels, channels, 3)
    return build_block(conv, channels, norm="none", bias=True)


def start(parts: Sequence[nn.Module]) -> None:
    """Xavier's weights and no bias for plain convolutions; other kinds have drawn theirs."""
    for part in parts:
        if type(part) is Conv2d:
            init_xavier(part)
