"""The branches of a dense head: a tower of convolutions, then a prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detcli.layers.blocks import build_block_norm_relu
from detcli.layers.conv import Conv2d, ConvNorm
from detcli.layers.dropout import Dropout
from detcli.layers.implicit import ImplicitConv2d

PRIOR_PROBABILITY = 0.01  # of every class at the start (RetinaNet, arXiv 1708.02002, 4.1)


@dataclass(frozen=True)
class Branches:
    """How every branch of a head is built.

    num_convs: convolutions of a tower; norm: after each of them; conv: plain, a 3x3 convolution
    with normal initialisation of std 0.01, or a kind of `build_block`, which initialises itself;
    implicit: predictions are `ImplicitConv2d`; dropout: keywords of `Dropout`, or None.
    """

    num_convs: int
    norm: str
    conv: str
    implicit: bool
    dropout: Mapping[str, Any] | None

    def tower(self, channels: int, *, bias: bool) -> nn.Sequential:
        """`num_convs` times convolution, norm, ReLU; then the noise of `Dropout`, where asked:
        no norm after it would see its variance (arXiv 1801.05134).

        bias: of the convolutions; without a norm they always have one.
        """
        bias = bias or self.norm == "none"
        layers = [self._layer(channels, bias) for _ in range(self.num_convs)]
        tower = nn.Sequential(*layers)
        if self.conv == "plain":
            for module in tower.modules():
                if isinstance(module, Conv2d):
                    _init_normal(module, bias=0.0)
        if self.dropout is not None:
            tower.append(Dropout(**self.dropout))
        return tower

    def prediction(self, channels: int, out_channels: int) -> Conv2d:
        """The 3x3 convolution with bias that ends a branch."""
        kind = ImplicitConv2d if self.implicit else Conv2d
        return _init_normal(kind(channels, out_channels, 3), bias=0.0)

    def class_prediction(self, channels: int, out_channels: int) -> Conv2d:
        """As `prediction`, with every sigmoid at 0.01 in the beginning."""
        prediction = self.prediction(channels, out_channels)
        start_rare(prediction)
        return prediction

    def _layer(self, channels: int, bias: bool) -> nn.Module:
        if self.conv != "plain":
            return build_block_norm_relu(self.conv, channels, norm=self.norm, bias=bias)
        return ConvNorm(channels, channels, 3, norm=self.norm, bias=bias)


def start_rare(prediction: Conv2d) -> None:
    """Sets the bias of logits so that every sigmoid is 0.01 in the beginning."""
    assert prediction.bias is not None
    nn.init.constant_(prediction.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))


def flatten_levels(maps: tuple[Tensor, ...], width: int) -> Tensor:
    """Predictions (B, P, width) in the order of the priors, from maps (B, A * width, h, w).

    Channels are anchor-major: all `width` numbers of the first anchor come first.
    """
    rows = []
    for level in maps:
        num_images, channels, height, cells_wide = level.shape
        priors = channels // width * height * cells_wide
        rows.append(level.permute(0, 2, 3, 1).reshape(num_images, priors, width))
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)  # cat would copy


def _init_normal(conv: Conv2d, *, bias: float) -> Conv2d:
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
    return conv
