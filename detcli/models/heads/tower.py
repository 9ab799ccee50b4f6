"""The branches of a dense head: a tower of convolutions, then a prediction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, ConvNorm

PRIOR_PROBABILITY = 0.01  # of every class at the start (RetinaNet, arXiv 1708.02002, 4.1)


def build_tower(channels: int, *, num_convs: int, norm: str, bias: bool) -> nn.Sequential:
    """`num_convs` times 3x3 convolution, norm, ReLU; normal initialisation of std 0.01."""
    tower = nn.Sequential(
        *(ConvNorm(channels, channels, 3, norm=norm, bias=bias) for _ in range(num_convs))
    )
    for module in tower.modules():
        if isinstance(module, Conv2d):
            _init_normal(module, bias=0.0)
    return tower


def build_prediction(channels: int, out_channels: int) -> Conv2d:
    """The 3x3 convolution with bias that ends a branch."""
    return _init_normal(Conv2d(channels, out_channels, 3), bias=0.0)


def build_class_prediction(channels: int, out_channels: int) -> Conv2d:
    """As `build_prediction`, with every sigmoid at 0.01 in the beginning."""
    prior = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
    return _init_normal(Conv2d(channels, out_channels, 3), bias=prior)


def flatten_levels(maps: tuple[Tensor, ...], width: int) -> Tensor:
    """Predictions (B, P, width) in the order of the priors, from maps (B, A * width, h, w).

    Channels are anchor-major: all `width` numbers of the first anchor come first.
    """
    rows = []
    for level in maps:
        num_images, channels, height, cells_wide = level.shape
        priors = channels // width * height * cells_wide
        rows.append(level.permute(0, 2, 3, 1).reshape(num_images, priors, width))
    return torch.cat(rows, dim=1)


def _init_normal(conv: Conv2d, *, bias: float) -> Conv2d:
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
    return conv
