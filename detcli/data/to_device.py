"""From the loader's bytes to the network's floats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detcli.types import Batch, Target


def to_device(
    batch: Batch,
    device: torch.device | str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    channels: str,
) -> tuple[Tensor, tuple[Target, ...]]:
    """Copy a batch to a device and normalise it there.

    Returns contiguous (B, 3, H, W) float32 images, (value - mean) / std with values in 0..255,
    the padding exactly 0, and the targets. mean and std are in the order of `channels`: rgb or
    bgr.
    """
    pixels = batch.images.to(device, non_blocking=True)
    pixels = (pixels.flip(1) if channels == "bgr" else pixels).contiguous()
    mean_1311, std_1311 = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(1, 3, 1, 1)
        for values in (mean, std)
    )
    # In place after one conversion: mixed-type arithmetic would allocate the floats twice.
    images = pixels.float().sub_(mean_1311).div_(std_1311)
    for image, target in zip(images, batch.targets, strict=True):
        height, width = target.size
        image[:, height:].zero_()
        image[:, :, width:].zero_()
    return images, tuple(target.to(device) for target in batch.targets)
