"""What a detector with a second stage has seen before it looks at regions.

Letters: B images, D channels; h, w cells of a level; H, W sides of the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from detcli.models.detector import sizes_of
from detcli.types import Target


class FirstStage(NamedTuple):
    """maps (B, D, h, w): of the neck; rpn: raw predictions of the first network, in its own type;
    sizes: (height, width) of the images, at which regions are cut; canvas: that of the padded
    batch."""

    maps: tuple[Tensor, ...]
    rpn: Any
    sizes: tuple[tuple[int, int], ...]
    canvas: tuple[int, int]


def first_stage(
    images: Tensor,
    backbone: nn.Module,
    neck: nn.Module,
    rpn: nn.Module,
    *,
    targets: Sequence[Target] | None,
    sizes: Sequence[tuple[int, int]] | None,
) -> FirstStage:
    """Maps and raw predictions for images (B, 3, H, W).

    sizes: (height, width) of the valid part of each image, from the targets where there are any;
    None: all of the batch.
    """
    maps = neck(backbone(images))
    canvas = (images.shape[-2], images.shape[-1])
    return FirstStage(maps, rpn(maps), sizes_of(targets, sizes, canvas, len(images)), canvas)
