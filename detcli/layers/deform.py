"""Deformable convolution (v1: arXiv 1703.06211, v2: arXiv 1811.11168)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from detcli.layers.conv import Conv2d, ConvNorm, zero_bias

TAPS = 9  # of a 3x3 kernel


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Computes in the precision of the tensors; on the meta device there is no autocast."""
    if x.is_meta:
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


class OffsetConv2d(nn.Conv2d):
    """3x3 convolution without bias whose taps are moved by offsets that something else predicts.

    Like `DeformConv2d` v1, starting from He's initialisation (arXiv 1502.01852).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C_in, h, w) and offsets (B, G * 18, h, w), y and x in cells of tap after tap for each
        of G groups of channels, to (B, C_out, h, w); in the precision of the weight."""
        with without_autocast(x):
            wide, moved = x.to(self.weight.dtype), offsets.to(self.weight.dtype)
            y: Tensor = deform_conv2d(wide, moved, self.weight, padding=self.padding)
        return y.to(x.dtype)


class DeformConv2d(Conv2d):
    """3x3 convolution whose taps move: each cell predicts where its own taps read.

    A plain convolution of the same stride and dilation predicts an offset (y, x) in cells for
    every tap, and with `modulated` (v2) also a weight from 0 to 1. Both start at zero, as
    published: v1 begins as the plain convolution, v2 as half of it, because sigmoid(0) = 0.5.
    offset_groups: groups of input channels with taps of their own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        dilation: int = 1,
        bias: bool = True,
        modulated: bool,
        offset_groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, 3, stride, dilation=dilation, bias=bias)
        self.num_offsets = offset_groups * 2 * TAPS
        codes = self.num_offsets + (offset_groups * TAPS if modulated else 0)
        self.conv_offset = Conv2d(in_channels, codes, 3, stride, dilation=dilation)
        nn.init.zeros_(self.conv_offset.weight)
        zero_bias(self.conv_offset)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As `forward`, with another weight and bias of the same shapes.

        Computed in the precision of `weight`, under autocast too: the operator has no bfloat16 on
        CPUs, and places are too coarse in it anywhere.
        """
        with without_autocast(x):
            wide = x.to(weight.dtype)
            codes = self.conv_offset(wide)
            masked = codes.shape[1] > self.num_offsets
            y: Tensor = deform_conv2d(
                wide,
                codes[:, : self.num_offsets],
                weight,
                bias,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                mask=codes[:, self.num_offsets :].sigmoid() if masked else None,
            )
        return y.to(x.dtype)


def deform_conv_norm(
    channels: int, *, norm: str, bias: bool = False, offset_groups: int = 1
) -> ConvNorm:
    """A `ConvNorm` with a modulated deformable 3x3 convolution."""
    block = ConvNorm(channels, channels, 3, norm=norm, bias=bias)
    block.conv = DeformConv2d(
        channels, channels, bias=bias, modulated=True, offset_groups=offset_groups
    )
    return block
