"""Implicit knowledge (YOLOR, arXiv 2105.04206) around a convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detcli.layers.conv import Conv2d

DEVIATION = 0.02  # of both vectors at the start, around 0 and 1, as published


class ImplicitConv2d(Conv2d):
    """A convolution whose input is shifted, and whose output is scaled, by learned vectors.

    multiply * (conv(x + add) + bias), where `add` (C_in,) is added to the zero padding too: with
    a 1x1 convolution, as published, this makes no difference, and with a 3x3 one it makes the
    vectors exactly a change of weight and bias. They are learned without weight decay.
    """

    undecayed = ("add", "multiply")

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.add = nn.Parameter(torch.empty(in_channels))
        self.multiply = nn.Parameter(torch.empty(out_channels))
        nn.init.normal_(self.add, std=DEVIATION)
        nn.init.normal_(self.multiply, mean=1.0, std=DEVIATION)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W)."""
        return self.convolve(x, *self._folded())

    @torch.no_grad()
    def fused(self) -> Conv2d:
        """The plain convolution that equals this one."""
        one = Conv2d(self.in_channels, self.out_channels, self.kernel_size[0])
        weight, bias = self._folded()
        assert one.bias is not None
        one.weight.copy_(weight)
        one.bias.copy_(bias)
        return one.to(weight.device)

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias that hold the two vectors."""
        assert self.bias is not None
        weight = self.weight * self.multiply[:, None, None, None]
        shift = (self.weight.sum(dim=(2, 3)) * self.add).sum(dim=1)
        bias = (self.bias + shift) * self.multiply
        return weight, bias
