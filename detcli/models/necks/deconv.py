"""From the coarsest map back to stride 4 by transposed convolutions (CenterNet's ResNets,
arXiv 1904.07850, section 4; Simple Baselines, arXiv 1804.06208).

Letters: B images, D channels, H and W pixels of the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import ConvNorm
from detcli.layers.deform import DeformConv2d
from detcli.layers.norm import build_norm

STRIDES = (4,)
SIDE = 4  # of the transposed kernels, which double the size


class Enlarge(nn.Module):
    """Transposed 4x4 convolution of stride 2, norm, ReLU; at the start it interpolates."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, SIDE, 2, padding=1, bias=False)
        self.norm = build_norm(norm, channels)
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel in range(channels):
                self.conv.weight[channel, channel] = bilinear_kernel(SIDE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) to (B, D, 2 h, 2 w)."""
        x = self.conv(x)
        return F.relu_(x if self.norm is None else self.norm(x))


class DeconvNeck(nn.Module):
    """For each of `channels` a 3x3 convolution with norm and ReLU, then `Enlarge`.

    conv: "plain" or "dcn" (modulated deformable, v2); conv_bias: those have a bias beside the norm
    (xingyizhou/CenterNet).
    """

    strides = STRIDES

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: Sequence[int],
        conv: str,
        conv_bias: bool,
        norm: str,
    ) -> None:
        super().__init__()
        self.out_channels = channels[-1]
        self.reduce, self.enlarge = nn.ModuleList(), nn.ModuleList()
        inputs = in_channels[-1]
        for width in channels:
            block = ConvNorm(inputs, width, 3, norm=norm, bias=conv_bias)
            if conv == "dcn":
                block.conv = DeformConv2d(inputs, width, bias=conv_bias, modulated=True)
            nn.init.kaiming_normal_(block.conv.weight, mode="fan_out", nonlinearity="relu")
            self.reduce.append(block)
            self.enlarge.append(Enlarge(width, norm))
            inputs = width

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """One map (B, channels[-1], h, w), twice as large for each of `channels` as the last of
        the backbone's maps, the only one that is used."""
        x = maps[-1]
        for reduce, enlarge in zip(self.reduce, self.enlarge, strict=True):
            x = enlarge(reduce(x))
        return (x,)


def bilinear_kernel(side: int) -> Tensor:
    """(side, side) weights with which a transposed convolution of stride side / 2 interpolates."""
    factor = side // 2
    center = factor - 0.5
    line = 1 - (torch.arange(side) - center).abs() / factor
    return line[:, None] * line[None, :]
