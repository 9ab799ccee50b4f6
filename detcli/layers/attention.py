"""Attention blocks that weight or shift the features of a residual branch.

Letters: B images, C channels, S squeezed channels, H and W cells of a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, ConvNorm, zero_bias

ATTENTION = ("se", "cbam", "gc")
SPATIAL_KERNEL = 7  # of CBAM's spatial gate, the better of the paper's 3 and 7


class SqueezeExcitation(nn.Module):
    """SE (arXiv 1709.01507): a gate for each channel, from the mean of every channel."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = Conv2d(channels, squeezed, 1)
        self.expand = Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        gate: Tensor = self.expand(self.reduce(mean).relu()).sigmoid()
        return x * gate


class ConvBlockAttention(nn.Module):
    """CBAM (arXiv 1807.06521): a gate for each channel, then one for each cell.

    The channel gate sees mean and maximum of every channel through the same two layers; the
    cell gate sees mean and maximum over the channels. The batch norm of the second gate has one
    channel, as in the authors' code.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = Conv2d(channels, squeezed, 1, bias=False)
        self.expand = Conv2d(squeezed, channels, 1, bias=False)
        self.spatial = ConvNorm(2, 1, SPATIAL_KERNEL, norm="bn", relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        mean, most = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        x = x * (self._squeeze(mean) + self._squeeze(most)).sigmoid()
        cells = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        gate: Tensor = self.spatial(cells).sigmoid()
        return x * gate

    def _squeeze(self, pooled: Tensor) -> Tensor:
        squeezed: Tensor = self.expand(self.reduce(pooled).relu())
        return squeezed


class GlobalContext(nn.Module):
    """GC block (arXiv 1904.11492): one context vector per image, added to every cell.

    The vector is a mean over the cells, weighted by a soft-max over the whole map. fusion
    "mul_add": a gate made from it multiplies each channel before. The last layer of each
    transform starts at zero, so that "add" begins as the identity and the gate at one half.
    """

    def __init__(self, channels: int, squeezed: int, *, fusion: str) -> None:
        super().__init__()
        self.mask = Conv2d(channels, 1, 1)
        nn.init.kaiming_normal_(self.mask.weight, mode="fan_in", nonlinearity="relu")
        zero_bias(self.mask)
        self.add = _transform(channels, squeezed)
        self.multiply = _transform(channels, squeezed) if fusion == "mul_add" else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        weights = self.mask(x).flatten(2).softmax(dim=2)  # (B, 1, H * W)
        context = x.flatten(2) @ weights.transpose(1, 2).to(x.dtype)  # (B, C, 1)
        context = context[..., None]
        if self.multiply is not None:
            x = x * self.multiply(context).sigmoid()
        shifted: Tensor = x + self.add(context)
        return shifted


def build_attention(name: str, channels: int, *, reduction: int, fusion: str) -> nn.Module:
    """An attention block over `channels`, of which channels // reduction remain inside.

    name: se | cbam | gc; fusion, for gc: add | mul_add. Raises ValueError for any other name.
    """
    squeezed = channels // reduction
    if name == "se":
        return SqueezeExcitation(channels, squeezed)
    if name == "cbam":
        return ConvBlockAttention(channels, squeezed)
    if name == "gc":
        return GlobalContext(channels, squeezed, fusion=fusion)
    raise ValueError(f"attention: expected {', '.join(ATTENTION)}, got {name}")


def _transform(channels: int, squeezed: int) -> nn.Sequential:
    """Squeeze, layer norm, ReLU, expand; the last layer gives zero at the start."""
    last = Conv2d(squeezed, channels, 1)
    nn.init.zeros_(last.weight)
    zero_bias(last)
    return nn.Sequential(
        Conv2d(channels, squeezed, 1), nn.LayerNorm([squeezed, 1, 1]), nn.ReLU(), last
    )
