"""Feature pyramid network (arXiv 1612.03144) with extra coarse levels (arXiv 1708.02002).

Letters: B images, D channels of every level; level l has stride 2^l.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.blocks import build_block
from detcli.layers.conv import Conv2d
from detcli.layers.upsample import Carafe

BACKBONE_LEVELS = (2, 3, 4, 5)


class FPN(nn.Module):
    """Laterals, top-down sums, 3x3 outputs, and strided convolutions for levels above 5.

    extra_from: P6 comes from the backbone's last map ("c5") or from P5 ("p5"); "pool": levels above
    5 are every second cell of the one before, without a convolution. extra_relu: ReLU
    before each extra convolution but the first. upsample: "nearest" or "carafe", on the way down.
    conv: kind of the outputs, see `build_block`. No norm and no other activation but inside these.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        out_channels: int,
        min_level: int,
        max_level: int,
        extra_from: str,
        extra_relu: bool,
        upsample: str,
        conv: str,
    ) -> None:
        super().__init__()
        self.skipped = BACKBONE_LEVELS.index(min_level)
        used = list(in_channels[self.skipped :])
        self.extra_from = extra_from
        self.extra_relu = extra_relu
        self.out_channels = out_channels
        self.strides = tuple(2**level for level in range(min_level, max_level + 1))
        self.lateral = nn.ModuleList(Conv2d(channels, out_channels, 1) for channels in used)
        self.output = nn.ModuleList(_output(conv, out_channels) for _ in used)
        first = used[-1] if extra_from == "c5" else out_channels
        self.num_extra = max_level - BACKBONE_LEVELS[-1]
        self.extra = nn.ModuleList(
            Conv2d(first if index == 0 else out_channels, out_channels, 3, 2)
            for index in range(0 if extra_from == "pool" else self.num_extra)
        )
        plain = self.output if conv == "plain" else ()  # other kinds have drawn their weights
        for part in (*self.lateral, *plain, *self.extra):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        self.upsample = nn.ModuleList(
            Carafe(out_channels) for _ in used[1:] if upsample == "carafe"
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, D, h, w) per level, finest first, from C2 to C5."""
        used = maps[self.skipped :]
        merged = [lateral(x) for lateral, x in zip(self.lateral, used, strict=True)]
        for index, (finer, coarser) in reversed(list(enumerate(pairwise(merged)))):
            finer.add_(self._enlarged(coarser, index, finer.shape[-2], finer.shape[-1]))
        levels = [output(x) for output, x in zip(self.output, merged, strict=True)]
        if self.extra_from == "pool":
            for _ in range(self.num_extra):
                levels.append(levels[-1][:, :, ::2, ::2])
            return tuple(levels)
        x = used[-1] if self.extra_from == "c5" else levels[-1]
        for index, extra in enumerate(self.extra):
            x = extra(F.relu(x) if self.extra_relu and index > 0 else x)
            levels.append(x)
        return tuple(levels)

    def _enlarged(self, coarser: Tensor, index: int, height: int, width: int) -> Tensor:
        """A coarser map on the grid of the next finer one, whose sides may be odd: nearest fits
        the grid to them, CARAFE's last row or column is left out (as in MMDetection)."""
        if len(self.upsample) == 0:
            return F.interpolate(coarser, size=(height, width), mode="nearest")
        fine: Tensor = self.upsample[index](coarser)
        return fine[:, :, :height, :width]


def _output(conv: str, channels: int) -> nn.Module:
    if conv == "plain":
        return Conv2d(channels, channels, 3)
    return build_block(conv, channels, norm="none", bias=True)
