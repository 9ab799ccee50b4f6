"""The residual blocks of a ResNet (arXiv 1512.03385), and what may replace or follow their parts.

Letters: B images, C channels, H and W cells of a map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.attention import build_attention
from detcli.layers.conv import Conv2d, ConvNorm
from detcli.layers.deform import DeformConv2d
from detcli.layers.norm import build_norm

if TYPE_CHECKING:
    from detcli.recipe.sections.blocks import Attention, Deformable


class NormSettings(NamedTuple):
    """Which norm follows each convolution of the backbone."""

    name: str
    eps: float


WITHOUT_NORM = NormSettings("none", 0.0)


class BlockSettings(NamedTuple):
    """What a block is made of.

    caffe: see `Bottleneck`; dilation: of one 3x3 convolution; deform: its `DeformConv2d`, or None;
    attention: the block at the end of the residual branch, after its last norm and before the sum,
    or None.
    """

    norm: NormSettings
    caffe: bool
    dilation: int
    deform: Deformable | None
    attention: Attention | None


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (depth 18 and 34).

    The first can be dilated, as in MMDetection, the second deformable, as in PaddleDetection.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, settings: BlockSettings
    ) -> None:
        super().__init__()
        name, eps = settings.norm
        self.conv1 = ConvNorm(in_channels, channels, 3, stride=stride, norm=name, eps=eps)
        replace_conv(self.conv1, settings.dilation, None)
        self.conv2 = ConvNorm(channels, channels, 3, norm=name, eps=eps, relu=False)
        replace_conv(self.conv2, 1, settings.deform)
        self.attention = attention_or_none(channels, settings)
        self.shortcut = build_shortcut(in_channels, channels, stride, settings.norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, channels, H / stride, W / stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        branch = self.conv2(self.conv1(x))
        if self.attention is not None:
            branch = self.attention(branch)
        return F.relu_(branch.add_(shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (depth 50 and 101).

    caffe: the stride is in the first 1x1 (as published); otherwise in the 3x3 (torchvision). The
    3x3 can be dilated, deformable, or both.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, settings: BlockSettings
    ) -> None:
        super().__init__()
        name, eps = settings.norm
        first, second = (stride, 1) if settings.caffe else (1, stride)
        out_channels = channels * self.expansion
        self.conv1 = ConvNorm(in_channels, channels, 1, stride=first, norm=name, eps=eps)
        self.conv2 = ConvNorm(channels, channels, 3, stride=second, norm=name, eps=eps)
        replace_conv(self.conv2, settings.dilation, settings.deform)
        self.conv3 = ConvNorm(channels, out_channels, 1, norm=name, eps=eps, relu=False)
        self.attention = attention_or_none(out_channels, settings)
        self.shortcut = build_shortcut(in_channels, out_channels, stride, settings.norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, 4 * channels, H / stride, W / stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        branch = self.conv3(self.conv2(self.conv1(x)))
        if self.attention is not None:
            branch = self.attention(branch)
        return F.relu_(branch.add_(shortcut))


class PreBasicBlock(nn.Module):
    """As `BasicBlock`, with pre-activation (arXiv 1603.05027): norm and ReLU before each
    convolution, and nothing after the sum.

    first: the input is normed and activated already, as that of a stage's first block.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, settings: BlockSettings, *, first: bool
    ) -> None:
        super().__init__()
        name, eps = settings.norm
        self.pre = nn.Identity() if first else NormReLU(in_channels, settings.norm)
        self.conv1 = ConvNorm(in_channels, channels, 3, stride=stride, norm=name, eps=eps)
        replace_conv(self.conv1, settings.dilation, None)
        self.conv2 = ConvNorm(channels, channels, 3, relu=False)
        replace_conv(self.conv2, 1, settings.deform)
        self.attention = attention_or_none(channels, settings)
        self.shortcut = build_shortcut(in_channels, channels, stride, WITHOUT_NORM)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, channels, H / stride, W / stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        branch = self.conv2(self.conv1(self.pre(x)))
        if self.attention is not None:
            branch = self.attention(branch)
        return torch.add(shortcut, branch)


class PreBottleneck(nn.Module):
    """As `Bottleneck`, with pre-activation; see `PreBasicBlock`."""

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, settings: BlockSettings, *, first: bool
    ) -> None:
        super().__init__()
        name, eps = settings.norm
        first_stride, second_stride = (stride, 1) if settings.caffe else (1, stride)
        out_channels = channels * self.expansion
        self.pre = nn.Identity() if first else NormReLU(in_channels, settings.norm)
        self.conv1 = ConvNorm(in_channels, channels, 1, stride=first_stride, norm=name, eps=eps)
        self.conv2 = ConvNorm(channels, channels, 3, stride=second_stride, norm=name, eps=eps)
        replace_conv(self.conv2, settings.dilation, settings.deform)
        self.conv3 = ConvNorm(channels, out_channels, 1, relu=False)
        self.attention = attention_or_none(out_channels, settings)
        self.shortcut = build_shortcut(in_channels, out_channels, stride, WITHOUT_NORM)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, 4 * channels, H / stride, W / stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        branch = self.conv3(self.conv2(self.conv1(self.pre(x))))
        if self.attention is not None:
            branch = self.attention(branch)
        return torch.add(shortcut, branch)


class NormReLU(nn.Module):
    """A norm, then a ReLU."""

    def __init__(self, channels: int, norm: NormSettings) -> None:
        super().__init__()
        self.norm = build_norm(norm.name, channels, norm.eps)
        assert self.norm is not None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        assert self.norm is not None
        return F.relu_(self.norm(x))


def build_shortcut(
    in_channels: int, out_channels: int, stride: int, norm: NormSettings
) -> ConvNorm | None:
    """A strided 1x1 convolution where shape changes, else None: the input itself."""
    if in_channels == out_channels and stride == 1:
        return None
    return ConvNorm(
        in_channels, out_channels, 1, stride=stride, norm=norm.name, eps=norm.eps, relu=False
    )


def replace_conv(part: ConvNorm, dilation: int, deform: Deformable | None) -> None:
    """Put a dilated or deformable 3x3 convolution in the place of a plain one, where asked."""
    if dilation == 1 and deform is None:
        return
    old = part.conv
    channels = old.in_channels, old.out_channels
    stride = old.stride[0]
    if deform is None:
        part.conv = Conv2d(*channels, 3, stride, dilation=dilation, bias=False)
    else:
        part.conv = DeformConv2d(
            *channels,
            stride,
            dilation=dilation,
            bias=False,
            modulated=deform.version == 2,
            offset_groups=deform.groups,
        )


def attention_or_none(channels: int, settings: BlockSettings) -> nn.Module | None:
    """The attention block of these settings, or None."""
    options = settings.attention
    if options is None:
        return None
    return build_attention(
        options.name, channels, reduction=options.reduction, fusion=options.fusion
    )
