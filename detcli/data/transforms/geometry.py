"""Transforms that move pixels and boxes together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detcli.data.transforms.sample import Sample, draw

IMAGENET_MEAN = (124, 116, 104)
"""Fill of new canvas: close to zero after normalisation, like the padding of a batch."""

_MIN_CROP_SOURCE_PX = 8
"""Below this side a crop could shrink to nothing."""


def scaled_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """(height, width) that fits `short` x `long` whichever way round, aspect ratio kept.

    factor = min(long / max side, short / min side), new side = int(side * factor + 0.5), as in
    MMDetection, so that published settings mean the same pixels.
    """
    height, width = size
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


class Resize:
    """Resize by short and long side, bilinear with anti-aliasing.

    pick: `choice` takes one of `shorts` per image, `range` any whole number between the two.
    """

    def __init__(self, shorts: Sequence[int], long: int, pick: str) -> None:
        if pick not in ("choice", "range"):
            raise ValueError(f"pick: expected choice or range, got {pick!r}")
        self.shorts = tuple(shorts)
        self.long = long
        self.pick = pick

    def __call__(self, sample: Sample) -> Sample:
        height, width = scaled_size(sample.size, self._short(), self.long)
        if (height, width) == sample.size:
            return sample
        old_height, old_width = sample.size
        factors = torch.tensor([width / old_width, height / old_height] * 2)
        return sample.changed(
            image=F.resize(sample.image, [height, width], antialias=True),
            boxes=sample.boxes * factors,
        )

    def _short(self) -> int:
        if len(self.shorts) == 1:
            return self.shorts[0]
        if self.pick == "choice":
            return self.shorts[int(draw() * len(self.shorts))]
        low, high = min(self.shorts), max(self.shorts)
        return low + int(draw() * (high - low + 1))


class Flip:
    """Mirror left-right and top-bottom, each with its own probability."""

    names = ("flip_horizontal", "flip_vertical")

    def __init__(self, horizontal: float, vertical: float) -> None:
        self.horizontal = horizontal
        self.vertical = vertical

    def __call__(self, sample: Sample) -> Sample:
        if draw() < self.horizontal:
            sample = flip_horizontal(sample)
        if draw() < self.vertical:
            sample = flip_vertical(sample)
        return sample


def flip_horizontal(sample: Sample) -> Sample:
    """Mirror left-right."""
    boxes = sample.boxes.clone()
    boxes[:, [0, 2]] = sample.size[1] - sample.boxes[:, [2, 0]]
    return sample.changed("flip_horizontal", image=F.horizontal_flip(sample.image), boxes=boxes)


def flip_vertical(sample: Sample) -> Sample:
    """Mirror top-bottom."""
    boxes = sample.boxes.clone()
    boxes[:, [1, 3]] = sample.size[0] - sample.boxes[:, [3, 1]]
    return sample.changed("flip_vertical", image=F.vertical_flip(sample.image), boxes=boxes)


class ZoomOut:
    """Put the image somewhere on a canvas up to `max_scale` times larger (SSD)."""

    names = ("zoom_out",)

    def __init__(self, prob: float, max_scale: float) -> None:
        self.prob = prob
        self.place = v2.RandomZoomOut(side_range=(1.0, max_scale), p=1.0)

    def __call__(self, sample: Sample) -> Sample:
        if draw() >= self.prob:
            return sample
        padding = self.place.make_params([sample.image])["padding"]
        shift = torch.tensor([padding[0], padding[1]] * 2, dtype=torch.float32)
        fill = [float(value) for value in IMAGENET_MEAN]
        image = F.pad(sample.image, padding, fill=fill)
        return sample.changed("zoom_out", image=image, boxes=sample.boxes + shift)


class IoUCrop:
    """Crop so that the crop's IoU with its objects exceeds a drawn minimum (SSD).

    An object stays if its centre is in the crop. An ignored region stays if any of it is. An
    image without objects is left alone.
    """

    names = ("iou_crop",)

    def __init__(self, prob: float) -> None:
        self.prob = prob
        self.choose = v2.RandomIoUCrop()

    def __call__(self, sample: Sample) -> Sample:
        objects = sample.keep(~sample.ignore)
        usable = len(objects.boxes) > 0 and min(sample.size) >= _MIN_CROP_SOURCE_PX
        if draw() >= self.prob or not usable:
            return sample
        window = self.choose.make_params([objects.image, objects.tv_boxes()])
        if not window:  # the drawn option is to leave the image as it is
            return sample
        return crop(sample, window["top"], window["left"], window["height"], window["width"])


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut a window out of the image; see IoUCrop for the boxes that stay."""
    shift = torch.tensor([left, top] * 2, dtype=torch.float32)
    limit = torch.tensor([width, height] * 2, dtype=torch.float32)
    moved = sample.boxes - shift
    inside = _centre_inside(moved, limit) | sample.ignore
    image = F.crop(sample.image, top, left, height, width)
    boxes = moved.clamp(min=0).minimum(limit)
    return sample.changed("iou_crop", image=image, boxes=boxes).keep(inside).without_degenerate()


def _centre_inside(boxes: Tensor, limit: Tensor) -> Tensor:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > 0) & (centres < limit[:2])).all(dim=1)
