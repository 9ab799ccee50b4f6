"""DLA-34: deep layer aggregation (Yu et al., arXiv 1707.06484) as a feature extractor.

Letters: B images, C channels, H and W pixels of the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import ConvNorm
from detcli.weights.centernet import dla_key, is_unused_in_dla
from detcli.weights.files import read_state
from detcli.weights.report import copy_state

if TYPE_CHECKING:
    from detcli.recipe.sections.models.centernet import DlaBackbone

CHANNELS = (16, 32, 64, 128, 256, 512)
DEPTHS = (1, 2, 2, 1)  # of the trees of levels 2 to 5


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which the tree around it provides."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, channels, 3, stride=stride, norm=norm)
        self.conv2 = ConvNorm(channels, channels, 3, norm=norm, relu=False)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """(B, C_in, H, W) and shortcut (B, C, H / stride, W / stride) to the latter's shape."""
        branch: Tensor = self.conv2(self.conv1(x))
        return F.relu_(branch.add_(shortcut))


class Tree(nn.Module):
    """Two halves and a root, a 1x1 convolution over both and over what `root_channels` counts
    besides; a half is a block (depth 1) or a tree of one depth less.

    The maps that only the last root sees are handed down to it. The first half has the stride.
    """

    def __init__(
        self, depth: int, in_channels: int, channels: int, stride: int, *, extra: int, norm: str
    ) -> None:
        super().__init__()
        self.stride = stride
        self.project: nn.Module | None = None
        self.root: nn.Module | None = None
        self.first: nn.Module
        self.second: nn.Module
        if depth == 1:
            self.first = Block(in_channels, channels, stride, norm)
            self.second = Block(channels, channels, 1, norm)
            self.root = ConvNorm(2 * channels + extra, channels, 1, norm=norm)
            if in_channels != channels:
                self.project = ConvNorm(in_channels, channels, 1, norm=norm, relu=False)
        else:
            self.first = Tree(depth - 1, in_channels, channels, stride, extra=0, norm=norm)
            self.second = Tree(depth - 1, channels, channels, 1, extra=extra + channels, norm=norm)

    def forward(self, x: Tensor, handed: Sequence[Tensor] = ()) -> Tensor:
        """(B, C_in, H, W) to (B, C, H / stride, W / stride); handed: maps of the latter size."""
        if self.root is None:
            first = self.first(x)
            return self.second(first, [*handed, first])  # type: ignore[no-any-return]
        bottom = pooled(x, self.stride)
        first = self.first(x, bottom if self.project is None else self.project(bottom))
        second = self.second(first, first)
        return self.root(torch.cat([second, first, *handed], dim=1))  # type: ignore[no-any-return]


class DLA(nn.Module):
    """Maps of strides 4, 8, 16 and 32; `out_channels` are theirs."""

    def __init__(self, *, norm: str) -> None:
        super().__init__()
        self.out_channels = CHANNELS[2:]
        self.stem = ConvNorm(3, CHANNELS[0], 7, norm=norm)
        self.convs = nn.ModuleList(
            [
                ConvNorm(CHANNELS[0], CHANNELS[0], 3, norm=norm),
                ConvNorm(CHANNELS[0], CHANNELS[1], 3, stride=2, norm=norm),
            ]
        )
        self.trees = nn.ModuleList()
        for level, depth in enumerate(DEPTHS, start=2):
            before, after = CHANNELS[level - 1], CHANNELS[level]
            # from level 3 on, the root also sees the input of the level
            extra = before if level > 2 else 0
            self.trees.append(Tree(depth, before, after, 2, extra=extra, norm=norm))
        for module in self.modules():
            if isinstance(module, ConvNorm):
                nn.init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, out_channels[i], H / 4 / 2^i, W / 4 / 2^i) of images (B, 3, H, W)."""
        if images.device.type == "cpu":  # the fast layout there; on CUDA the recipe decides
            images = images.contiguous(memory_format=torch.channels_last)
        x = self.stem(images)
        for conv in self.convs:
            x = conv(x)
        maps: list[Tensor] = []
        for tree in self.trees:
            x = tree(x, [pooled(x, 2)] if maps else [])
            maps.append(x)
        return tuple(maps)


def pooled(x: Tensor, stride: int) -> Tensor:
    """x, its size divided by the stride, the largest value of each cell; sizes rounded up."""
    return F.max_pool2d(x, stride, stride, ceil_mode=True) if stride > 1 else x


def build_dla34(options: DlaBackbone) -> DLA:
    """A DLA-34 with random weights (None) or those of a file with the names of the authors'.

    Raises CheckpointError when the file does not fit.
    """
    backbone = DLA(norm=options.norm)
    if options.weights is not None:
        state = {
            dla_key(key): value
            for key, value in read_state(Path(options.weights)).items()
            if not key.startswith("fc.") and not is_unused_in_dla(key)
        }
        for key, value in backbone.state_dict().items():
            if key.endswith("num_batches_tracked"):  # old files lack it; nothing depends on it
                state.setdefault(key, value)
        copy_state(backbone, state, options.weights)
    return backbone
