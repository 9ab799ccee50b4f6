"""Pixels of a patch into an image without a seam."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch

from detcli.data.transforms.sample import Sample

if TYPE_CHECKING:
    from torch import Tensor

    from detcli.data.images import Pixels

Blend = Literal["poisson", "inpaint"]
Core = tuple[int, int, int, int]
"""Left, top, right, bottom of what a patch is about, in its pixels; the rest is surroundings."""

_RING_SHARE = 1 / 8
_RING_PX = (2, 10)
"""Width of the ring that inpainting fills: a fraction of the core's shorter side, within limits (10
pixels in the cited work, whose images are 4096 pixels wide)."""

_RADIUS_PX = 3

ROOM_PX = 5
"""Pixels that every patch has around its core: OpenCV's seamlessClone leaves out the outermost
pixel of a mask and takes the gradients of the three (in practice four) next to it from the image,
so that a core without room loses its edge, and a narrow one everything."""


def blend_in(
    sample: Sample, patch: Sample, core: Core, top: int, left: int, *, blend: Blend
) -> Sample:
    """Put a patch into the image, whose pixels are written in place, and add its boxes.

    The core has at least ROOM_PX around it. poisson: the patch keeps its gradients, and the image
    its values at the border of the patch (Perez et al. 2003, "Poisson image editing"), so colours
    are shifted to fit. inpaint: the core is copied as it is, and a ring around it is filled from
    both sides (Telea 2004).
    """
    if blend == "poisson":
        _clone(sample.image, patch.image, top, left)
    else:
        _copy_and_inpaint(sample.image, patch.image, core, top, left)
    return sample.with_boxes_of(patch.shifted(left, top))


def _clone(image: Tensor, patch: Tensor, top: int, left: int) -> None:
    height, width = patch.shape[-2:]
    target = image[:, top : top + height, left : left + width]
    everything = np.full((height, width), 255, np.uint8)
    # OpenCV leaves out the border of the mask, and puts the middle of the rest at the point given.
    middle = (width // 2, height // 2)
    blended = cv2.seamlessClone(
        pixels_of(patch), pixels_of(target), everything, middle, cv2.NORMAL_CLONE
    )
    target.copy_(torch.from_numpy(blended).permute(2, 0, 1))


def _copy_and_inpaint(image: Tensor, patch: Tensor, core: Core, top: int, left: int) -> None:
    height, width = patch.shape[-2:]
    x1, y1, x2, y2 = core
    ring = round(min(x2 - x1, y2 - y1) * _RING_SHARE)
    ring = min(max(ring, _RING_PX[0]), _RING_PX[1])
    image[:, top + y1 : top + y2, left + x1 : left + x2] = patch[:, y1:y2, x1:x2]
    # Some pixels of the image around the patch, for the ring to be filled from.
    above, before = min(top, _RADIUS_PX), min(left, _RADIUS_PX)
    area = image[
        :, top - above : top + height + _RADIUS_PX, left - before : left + width + _RADIUS_PX
    ]
    mask = np.zeros(area.shape[-2:], np.uint8)
    inside = mask[above : above + height, before : before + width]
    inside[max(0, y1 - ring) : y2 + ring, max(0, x1 - ring) : x2 + ring] = 255
    inside[y1:y2, x1:x2] = 0
    filled = cv2.inpaint(pixels_of(area), mask, _RADIUS_PX, cv2.INPAINT_TELEA)
    area.copy_(torch.from_numpy(filled).permute(2, 0, 1))


def pixels_of(image: Tensor) -> Pixels:
    """A (3, H, W) image as OpenCV wants it: (H, W, 3), contiguous."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
