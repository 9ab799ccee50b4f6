"""Norm layers by name, and which of them are constants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

GROUPS = 32  # Group normalization (arXiv 1803.08494), table 3


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics, scale and shift are constants: it is always in eval mode."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.requires_grad_(False)
        self.training = False

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        return self


def keep_as_buffers(module: nn.Module) -> None:
    """Turn scales and shifts of the frozen batch norms inside `module` from parameters without a
    gradient into buffers, as in DETR's code; names and values stay."""
    for part in module.modules():
        if isinstance(part, FrozenBatchNorm2d):
            for name in ("weight", "bias"):
                value = part.get_parameter(name).detach()
                delattr(part, name)
                part.register_buffer(name, value)


class InstanceNorm2d(nn.GroupNorm):
    """Each channel of each image by itself: a group norm with groups of one channel.

    A map of a single cell, which PyTorch's own layers refuse, becomes the shift.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups of channels, each image by itself; ValueError when they do not divide so."""
    if channels % GROUPS:
        raise ValueError(f"norm gn: expected a multiple of {GROUPS} channels, got {channels}")
    return nn.GroupNorm(GROUPS, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "frozen_bn": FrozenBatchNorm2d,
    "sync_bn": nn.SyncBatchNorm,
    "gn": group_norm,
    # all channels and cells of an image together (arXiv 1803.08494, figure 2), not each cell
    "ln": partial(nn.GroupNorm, 1),
    "in": InstanceNorm2d,
}


def build_norm(name: str, channels: int) -> nn.Module | None:
    """A norm layer over `channels`, or None for "none".

    name: none or a key of NORMS. Raises ValueError for any other, and for a group norm whose
    channels do not divide into 32 groups.
    """
    if name == "none":
        return None
    if name not in NORMS:
        raise ValueError(f"norm: expected none, {', '.join(NORMS)}, got {name}")
    return NORMS[name](channels)


def set_eps(backbone: nn.Module, eps: float) -> None:
    """Give the norms of a backbone another epsilon than 1e-5, but for those inside its attention
    blocks, which published weights do not have."""
    for name, part in backbone.named_modules():
        if isinstance(part, _BatchNorm | nn.GroupNorm) and ".attention." not in name:
            part.eps = eps


def use_running_statistics(module: nn.Module) -> None:
    """Put every batch norm inside `module` into eval mode; its scale and shift still learn."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


def fixed_affine(norm: nn.Module | None) -> tuple[Tensor, Tensor] | None:
    """Scale (C,) and shift (C,) of a batch norm that uses running statistics; None of any other.

    norm(x) = x * scale + shift per channel; gradients reach the norm's own scale and shift.
    """
    if not isinstance(norm, _BatchNorm) or norm.training:
        return None
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale
