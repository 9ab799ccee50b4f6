"""Crops. An object stays if its centre is in the crop, an ignored region if any of it is."""

from __future__ import annotations

import math

from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detcli.data.transforms.sample import Sample, draw, draw_between, draw_index

_MIN_CROP_SOURCE_PX = 8
"""Below this side a crop could shrink to nothing."""


class IoUCrop:
    """Crop so that the crop's IoU with its objects exceeds a drawn minimum (SSD).

    An image without objects is left alone.
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
        cut = crop(sample, window["top"], window["left"], window["height"], window["width"])
        return cut.changed("iou_crop")


class SafeCrop:
    """Crop to a window that holds objects whole.

    min_side: shortest side of the window, as a fraction of the image's; each side is drawn on its
    own. keep: `all` objects stay whole, or `one`, drawn with equal chances, so that a tiny object
    is as likely to be the one that is magnified as a large one. Where a box is larger than the
    drawn window, the window grows. An image without objects is cropped anywhere.
    """

    names = ("crop",)

    def __init__(self, prob: float, min_side: float, keep: str) -> None:
        if keep not in ("all", "one"):
            raise ValueError(f"keep: expected all or one, got {keep!r}")
        self.prob = prob
        self.min_side = min_side
        self.keep = keep

    def __call__(self, sample: Sample) -> Sample:
        if draw() >= self.prob or min(sample.size) < _MIN_CROP_SOURCE_PX:
            return sample
        height, width = sample.size
        (x1, x2), (y1, y2) = self._held(sample)
        left, new_width = self._span(width, x1, x2)
        top, new_height = self._span(height, y1, y2)
        if (new_height, new_width) == (height, width):
            return sample
        return crop(sample, top, left, new_height, new_width).changed("crop")

    def _held(self, sample: Sample) -> tuple[tuple[float, float], tuple[float, float]]:
        """What the window must hold from left to right, and from top to bottom."""
        objects = sample.boxes[~sample.ignore]
        if len(objects) == 0:  # any point of the image
            height, width = sample.size
            x, y = draw() * width, draw() * height
            return (x, x), (y, y)
        if self.keep == "one":
            objects = objects[draw_index(len(objects))][None]
        x1, y1 = objects[:, :2].amin(0).tolist()
        x2, y2 = objects[:, 2:].amax(0).tolist()
        return (x1, x2), (y1, y2)

    def _span(self, length: int, low: float, high: float) -> tuple[int, int]:
        """Start and length of a window on an axis of `length` pixels that holds low..high."""
        first, last = math.floor(low), math.ceil(high)
        span = max(1, round(length * draw_between(self.min_side, 1.0)), last - first)
        earliest, latest = max(0, last - span), min(first, length - span)
        return earliest + draw_index(latest - earliest + 1), span


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut a window out of the image."""
    image = F.crop(sample.image, top, left, height, width)
    return sample.shifted(-left, -top).changed(image=image).cut_to_image()
