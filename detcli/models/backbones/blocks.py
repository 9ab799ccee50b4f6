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


class BlockSettings(NamedTuple):
    """What a block is made of.

    norm: of each convolution; caffe: see `Bottleneck`; dilation: of one 3x3 convolution; deform:
    its `DeformConv2d`, or None; attention: the block at the end of the residual branch, after its
    last norm and before the sum, or None; pre_activation: see `ResidualBlock`.
    """

    norm: str
    caffe: bool
    dilation: int
    deform: Deformable | None
    attention: Attention | None
    pre_activation: bool = False

    @property
    def last_norm(self) -> str:
        """Of what is added up."""
        return "none" if self.pre_activation else self.norm


class ResidualBlock(nn.Module):
    """A branch of convolutions, each with a norm and a ReLU, and a shortcut; the ReLU of the last
    one follows their sum.

    With pre-activation (arXiv 1603.05027) norm and ReLU are before each convolution, and nothing is
    after the sum. first: the input is normed and activated already, as that of a stage's first
    block.
    """

    expansion = 1

    def __init__(self, in_channels: int, settings: BlockSettings, *, first: bool) -> None:
        super().__init__()
        self.pre_activation = settings.pre_activation
        self.pre: NormReLU | None = None
        if settings.pre_activation and not first:
            self.pre = NormReLU(in_channels, settings.norm)

    def finish(
        self, in_channels: int, out_channels: int, stride: int, settings: BlockSettings
    ) -> None:
        """Add what follows the convolutions: attention, and a strided 1x1 convolution as shortcut
        where the shape changes."""
        self.attention = attention_or_none(out_channels, settings)
        self.shortcut: ConvNorm | None = None
        if in_channels != out_channels or stride != 1:
            norm = settings.last_norm
            self.shortcut = ConvNorm(
                in_channels, out_channels, 1, stride=stride, norm=norm, relu=False
            )

    def branch(self, x: Tensor) -> Tensor:
        """The convolutions: (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, expansion * channels, H / stride, W / stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        branch = self.branch(x if self.pre is None else self.pre(x))
        if self.attention is not None:
            branch = self.attention(branch)
        if self.pre_activation:
            return torch.add(shortcut, branch)
        return F.relu_(branch.add_(shortcut))


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (depth 18 and 34).

    The first can be dilated, as in MMDetection, the second deformable, as in PaddleDetection.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        settings: BlockSettings,
        *,
        first: bool = False,
    ) -> None:
        super().__init__(in_channels, settings, first=first)
        self.conv1 = ConvNorm(in_channels, channels, 3, stride=stride, norm=settings.norm)
        replace_conv(self.conv1, settings.dilation, None)
        self.conv2 = ConvNorm(channels, channels, 3, norm=settings.last_norm, relu=False)
        replace_conv(self.conv2, 1, settings.deform)
        self.finish(in_channels, channels, stride, settings)

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return y


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions (depth 50 and 101).

    caffe: the stride is in the first 1x1 (as published); otherwise in the 3x3 (torchvision). The
    3x3 can be dilated, deformable, or both.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        settings: BlockSettings,
        *,
        first: bool = False,
    ) -> None:
        super().__init__(in_channels, settings, first=first)
        first_stride, second_stride = (stride, 1) if settings.caffe else (1, stride)
        norm, out_channels = settings.norm, channels * self.expansion
        self.conv1 = ConvNorm(in_channels, channels, 1, stride=first_stride, norm=norm)
        self.conv2 = ConvNorm(channels, channels, 3, stride=second_stride, norm=norm)
        replace_conv(self.conv2, settings.dilation, settings.deform)
        self.conv3 = ConvNorm(channels, out_channels, 1, norm=settings.last_norm, relu=False)
        self.finish(in_channels, out_channels, stride, settings)

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(self.conv2(self.conv1(x)))
        return y


class NormReLU(nn.Module):
    """A norm, then a ReLU."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.norm = build_norm(norm, channels)
        assert self.norm is not None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        assert self.norm is not None
        return F.relu_(self.norm(x))


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
