"""The branches of a dense head: a tower of convolutions, then a prediction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detcli.layers.blocks import build_block_norm_relu
from detcli.layers.conv import Conv2d, ConvNorm, init_normal
from detcli.layers.dropout import Dropout
from detcli.layers.implicit import ImplicitConv2d

if TYPE_CHECKING:
    from detcli.recipe.sections.blocks import Dropout as DropoutSection
    from detcli.recipe.sections.network import Head

PRIOR_PROBABILITY = 0.01  # of every class at the start (RetinaNet, arXiv 1708.02002, 4.1)


def conv_tower(options: Head, channels: int, *, bias: bool) -> nn.Sequential:
    """`num_convs` times convolution, norm, ReLU; then the noise of `Dropout`, where asked: no norm
    after it would see its variance (arXiv 1801.05134).

    options: conv "plain" is a 3x3 convolution with normal initialisation of std 0.01, others are
    kinds of `build_block`, which initialises itself. bias: of the convolutions; without a norm they
    always have one.
    """
    bias = bias or options.norm == "none"
    tower = nn.Sequential(*(_layer(options, channels, bias) for _ in range(options.num_convs)))
    if options.conv == "plain":
        for module in tower.modules():
            if isinstance(module, Conv2d):
                init_normal(module)
    return with_noise(tower, options.dropout)


def with_noise(tower: nn.Sequential, options: DropoutSection | None) -> nn.Sequential:
    """The tower, and at its end the noise of this section of a recipe, if any."""
    if options is not None:
        tower.append(Dropout(options.name, rate=options.rate, beta=options.beta))
    return tower


def prediction(channels: int, out_channels: int, *, implicit: bool) -> Conv2d:
    """The 3x3 convolution with bias that ends a branch; implicit: it is an `ImplicitConv2d`."""
    kind = ImplicitConv2d if implicit else Conv2d
    return init_normal(kind(channels, out_channels, 3))


def class_prediction(channels: int, out_channels: int, *, implicit: bool) -> Conv2d:
    """As `prediction`, with every sigmoid at 0.01 in the beginning."""
    conv = prediction(channels, out_channels, implicit=implicit)
    start_rare(conv)
    return conv


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


def _layer(options: Head, channels: int, bias: bool) -> nn.Module:
    if options.conv != "plain":
        return build_block_norm_relu(options.conv, channels, norm=options.norm, bias=bias)
    return ConvNorm(channels, channels, 3, norm=options.norm, bias=bias)
