"""Context of several ranges (atrous spatial pyramid pooling).

Letters: B images, C channels in, D channels of every branch; H, W cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detcli.layers.conv import ConvNorm, Kernel


class ASPP(nn.Module):
    """A 1x1 convolution, one 3x3 convolution per dilation in `rates`, and the mean of the whole
    map, joined and fused by a 1x1 convolution (DeepLabv3, arXiv 1706.05587, section 3.3).

    norm: after every convolution, before its ReLU. As in torchvision, but without its drop-out. The
    mean is one cell per image: a batch norm there needs two or more images.
    """

    def __init__(self, in_channels: int, *, channels: int, rates: Sequence[int], norm: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ConvNorm(in_channels, channels, 1, norm=norm)])
        for rate in rates:
            self.branches.append(ConvNorm(in_channels, channels, Kernel(3, rate), norm=norm))
        self.pooled = ConvNorm(in_channels, channels, 1, norm=norm)
        self.project = ConvNorm((len(rates) + 2) * channels, channels, 1, norm=norm)
        for part in (*self.branches, self.pooled, self.project):
            assert isinstance(part, ConvNorm)
            nn.init.kaiming_normal_(part.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H, W)."""
        joined = [branch(x) for branch in self.branches]
        mean = self.pooled(x.mean(dim=(2, 3), keepdim=True))  # (B, D, 1, 1)
        joined.append(mean.expand_as(joined[0]))
        fused: Tensor = self.project(torch.cat(joined, dim=1))
        return fused
