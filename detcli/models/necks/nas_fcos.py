"""The neck that NAS-FCOS's search found (arXiv 1906.04423, figure 3).

Letters: B images, D channels of every map; h, w cells. Level l has stride 2^l.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, ConvNorm, init_xavier
from detcli.layers.deform import deform_conv_norm

if TYPE_CHECKING:
    from detcli.recipe.sections.network import NasFcosNeck

# Each cell joins two of the maps so far, of which 0 to 2 are C3 to C5, and appends its own; the
# second input of some is taken as it is.
CELLS = (
    (2, 2, True),
    (2, 2, True),
    (3, 2, False),
    (0, 2, False),
    (4, 2, True),
    (3, 6, True),
    (6, 1, True),
)
OUTPUTS = (9, 8, 7)  # maps that become P3 to P5
SHARED = 5  # map that is added to each of them
OFFSET_GROUPS = 2


class Cell(nn.Module):
    """Both inputs on the larger grid, joined, normed and put together channel by channel.

    Before that the first one passes a deformable convolution, with `both` also the second.
    """

    def __init__(self, channels: int, *, both: bool) -> None:
        super().__init__()
        self.first = _deformable(channels)
        self.second = _deformable(channels) if both else nn.Identity()
        self.norm = nn.BatchNorm2d(2 * channels)
        self.conv = Conv2d(2 * channels, channels, 1, groups=channels, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, D, h, w) from two maps (B, D, *, *), h x w the larger one."""
        a, b = self.first(a), self.second(b)
        size = max(a.shape[-2:], b.shape[-2:])
        joined = torch.cat([_resized(a, size), _resized(b, size)], dim=1)
        y: Tensor = self.conv(F.relu_(self.norm(joined)))
        return y


class NASFCOSNeck(nn.Module):
    """Seven cells over C3 to C5, then strided convolutions for the levels above 5, all but the
    first after a ReLU."""

    def __init__(self, in_channels: Sequence[int], options: NasFcosNeck) -> None:
        super().__init__()
        out_channels, max_level = options.out_channels, options.max_level
        self.out_channels = out_channels
        self.strides = tuple(2**level for level in range(3, max_level + 1))
        self.adapt = nn.ModuleList(
            ConvNorm(channels, out_channels, 1, norm="bn") for channels in in_channels[1:]
        )
        self.cells = nn.ModuleList(Cell(out_channels, both=both) for *_, both in CELLS)
        self.extra = nn.ModuleList(
            Conv2d(out_channels, out_channels, 3, 2) for _ in range(max_level - 5)
        )
        for part in (
            *(adapt.conv for adapt in self.adapt),
            *(cell.conv for cell in self.cells),
            *self.extra,
        ):
            init_xavier(part)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, D, h, w) per level, finest first, from C2 to C5."""
        made = [adapt(x) for adapt, x in zip(self.adapt, maps[1:], strict=True)]
        for (first, second, _), cell in zip(CELLS, self.cells, strict=True):
            made.append(cell(made[first], made[second]))
        levels = []
        for index, x in zip(OUTPUTS, maps[1:], strict=True):
            own = made[index]
            summed = own + _bilinear(made[SHARED], own.shape[-2:])
            levels.append(_bilinear(summed, x.shape[-2:]))
        for index, extra in enumerate(self.extra):
            levels.append(extra(F.relu(levels[-1]) if index > 0 else levels[-1]))
        return tuple(levels)


def _deformable(channels: int) -> ConvNorm:
    return deform_conv_norm(channels, norm="bn", bias=True, offset_groups=OFFSET_GROUPS)


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="nearest")


def _bilinear(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
