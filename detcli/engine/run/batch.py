"""A batch on its way into the network, in training and in evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detcli.data.to_device import to_device
from detcli.recipe import Recipe
from detcli.types import Batch, Target


def network_input(
    recipe: Recipe, batch: Batch, device: torch.device
) -> tuple[Tensor, tuple[Target, ...]]:
    """A batch on the device, normalised and laid out as the recipe asks."""
    data = recipe.data
    images, targets = to_device(batch, device, mean=data.mean, std=data.std, channels=data.channels)
    if recipe.train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, targets


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The precision of forward passes that the recipe asks for."""
    amp = recipe.train.amp
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "none")


def forward(
    model: nn.Module, recipe: Recipe, batch: Batch, device: torch.device
) -> tuple[Any, tuple[Target, ...]]:
    """What a model makes of a batch in the recipe's precision, and the batch's targets on the
    device."""
    images, targets = network_input(recipe, batch, device)
    with autocast(recipe, device):
        return model(images, targets), targets
