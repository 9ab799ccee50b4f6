"""What can stand in the place of a plain 3x3 convolution in a head or a neck, by name.

Letters: B images, D channels in and out; h, w cells of a level.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, ConvNorm, Kernel, zero_bias
from detcli.layers.norm import build_norm
from detcli.layers.rep import RepConv

GROUPS = 4  # of grouped_shuffle; ShuffleNet (arXiv 1707.01083) compares 1, 2, 3, 4 and 8
REDUCTION = 4  # of bottleneck; ResNet (arXiv 1512.03385)


class GroupedShuffle(Conv2d):
    """A 3x3 convolution in groups, its output channels dealt out over the groups.

    The next one then sees channels of every group (ShuffleNet, arXiv 1707.01083, without its
    depth-wise convolution). Raises ValueError for channels that are no multiple of `GROUPS`.
    """

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__(channels, channels, 3, groups=GROUPS, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) to the same shape; output channel g D / G + i becomes i G + g."""
        return F.channel_shuffle(super().forward(x), self.groups)


def build_block(kind: str, channels: int, *, norm: str, bias: bool) -> nn.Module:
    """A convolution of this kind, (B, D, h, w) to the same shape, without what follows it.

    kind: rep | depthwise | grouped_shuffle | bottleneck. Between the convolutions of one kind are
    `norm` and a ReLU; `rep` has batch norms of its own. The weights are drawn for unit gain
    through a ReLU (He et al., arXiv 1502.01852): the kernels are thin, and a fixed deviation made
    for wide ones would lose the signal.
    """
    block = BLOCKS[kind](channels, norm, bias)
    for module in block.modules():
        if isinstance(module, Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            zero_bias(module)
    return block


def build_block_norm_relu(kind: str, channels: int, *, norm: str, bias: bool) -> nn.Sequential:
    """A convolution of this kind, then `norm`, then a ReLU: a `ConvNorm` with another `conv`."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=build_block(kind, channels, norm=norm, bias=bias)
    )
    layer = build_norm(norm, channels)
    if layer is not None:
        parts["norm"] = layer
    parts["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


def _rep(channels: int, norm: str, bias: bool) -> nn.Module:
    return RepConv(channels, channels)


def _depthwise(channels: int, norm: str, bias: bool) -> nn.Module:
    """One 3x3 filter per channel, then 1x1 across channels (MobileNet, arXiv 1704.04861)."""
    return nn.Sequential(
        ConvNorm(channels, channels, Kernel(3, groups=channels), norm=norm, bias=bias),
        Conv2d(channels, channels, 1, bias=bias),
    )


def _grouped_shuffle(channels: int, norm: str, bias: bool) -> nn.Module:
    return GroupedShuffle(channels, bias=bias)


def _bottleneck(channels: int, norm: str, bias: bool) -> nn.Module:
    """1x1 to a quarter of the channels, 3x3, 1x1 back (ResNet's, without its identity)."""
    inner = channels // REDUCTION
    return nn.Sequential(
        ConvNorm(channels, inner, 1, norm=norm, bias=bias),
        ConvNorm(inner, inner, 3, norm=norm, bias=bias),
        Conv2d(inner, channels, 1, bias=bias),
    )


BLOCKS: dict[str, Callable[[int, str, bool], nn.Module]] = {
    "rep": _rep,
    "depthwise": _depthwise,
    "grouped_shuffle": _grouped_shuffle,
    "bottleneck": _bottleneck,
}
