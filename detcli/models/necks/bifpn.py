"""Bidirectional pyramid with weighted fusion (EfficientDet, arXiv 1911.09070, section 3).

Letters: B images, D channels of every level, L levels, N maps that meet in a node; h, w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, ConvNorm
from detcli.models.necks.extra import BACKBONE_LEVELS

if TYPE_CHECKING:
    from detcli.recipe.sections.network import BifpnNeck

EPS = 1e-4  # beside the sum of the shares, as published


class Node(nn.Module):
    """N maps become one: sum of share_i x map_i / (EPS + sum of shares), each share learned and cut
    off at 0 ("fast normalized fusion"); then swish, a depth-wise 3x3 and a 1x1 convolution and a
    norm, in the order of the authors' code."""

    undecayed = ("shares",)

    def __init__(self, count: int, channels: int, *, norm: str) -> None:
        super().__init__()
        self.shares = nn.Parameter(torch.ones(count))
        self.depthwise = Conv2d(channels, channels, 3, groups=channels, bias=False)
        self.pointwise = ConvNorm(channels, channels, 1, norm=norm, relu=False)
        for conv in (self.depthwise, self.pointwise.conv):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    def forward(self, *maps: Tensor) -> Tensor:
        """(B, D, h, w) from N maps of that shape."""
        shares = F.relu(self.shares)
        shares = shares / (shares.sum() + EPS)
        fused = sum(share * x for share, x in zip(shares.unbind(), maps, strict=True))
        assert isinstance(fused, Tensor)
        y: Tensor = self.pointwise(self.depthwise(F.silu(fused)))
        return y


class Layer(nn.Module):
    """Once down and once up: on the way up a level meets itself from before and from the way down.
    The coarsest and the finest level have one node, all others two."""

    def __init__(self, num_levels: int, channels: int, *, norm: str) -> None:
        super().__init__()
        self.down = nn.ModuleList(Node(2, channels, norm=norm) for _ in range(num_levels - 1))
        self.up = nn.ModuleList(
            Node(3 if index < num_levels - 2 else 2, channels, norm=norm)
            for index in range(num_levels - 1)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """L maps (B, D, h, w), finest first, to maps of the same shapes."""
        lowered = [levels[-1]]  # coarsest first
        for node, level in zip(reversed(self.down), reversed(levels[:-1]), strict=True):
            size = (level.shape[-2], level.shape[-1])
            lowered.append(node(level, F.interpolate(lowered[-1], size=size, mode="nearest")))
        lowered.reverse()
        raised = [lowered[0]]
        for node, before, level in zip(self.up, levels[1:-1], lowered[1:-1], strict=False):
            raised.append(node(before, level, _halved(raised[-1])))
        raised.append(self.up[-1](levels[-1], _halved(raised[-1])))
        return raised


class BiFPN(nn.Module):
    """A 1x1 convolution with norm for every map of the backbone, P6 from C5 in the same way and
    then halved, P7 halved again; then `repeats` layers.

    norm: after every 1x1 convolution. One 1x1 convolution serves both nodes that read a map, where
    the authors' code has two; halving is a 3x3 maximum with stride 2.
    """

    def __init__(self, in_channels: Sequence[int], options: BifpnNeck) -> None:
        super().__init__()
        out_channels, norm = options.out_channels, options.norm
        self.skipped = BACKBONE_LEVELS.index(options.min_level)
        self.out_channels = out_channels
        self.strides = tuple(2**level for level in range(options.min_level, options.max_level + 1))
        self.num_extra = options.max_level - BACKBONE_LEVELS[-1]
        used = list(in_channels[self.skipped :])
        used += used[-1:] if self.num_extra > 0 else []
        self.lateral = nn.ModuleList(
            ConvNorm(channels, out_channels, 1, norm=norm, relu=False) for channels in used
        )
        for lateral in self.lateral:
            assert isinstance(lateral, ConvNorm)
            nn.init.xavier_uniform_(lateral.conv.weight)
        self.layers = nn.ModuleList(
            Layer(len(self.strides), out_channels, norm=norm) for _ in range(options.repeats)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, D, h, w) per level, finest first, from C2 to C5."""
        used = list(maps[self.skipped :])
        levels = [lateral(x) for lateral, x in zip(self.lateral, used, strict=False)]
        if self.num_extra > 0:
            levels.append(_halved(self.lateral[-1](used[-1])))
        for _ in range(self.num_extra - 1):
            levels.append(_halved(levels[-1]))
        for layer in self.layers:
            levels = layer(levels)
        return tuple(levels)


def _halved(x: Tensor) -> Tensor:
    """Every second cell, the largest of the nine around it; odd sides are rounded up."""
    return F.max_pool2d(x, 3, stride=2, padding=1)
