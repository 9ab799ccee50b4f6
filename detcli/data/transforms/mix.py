"""Several images in one: mosaic and mixup."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from detcli.data.transforms.crop import crop
from detcli.data.transforms.geometry import resized
from detcli.data.transforms.pool import Mixing, Pool
from detcli.data.transforms.sample import Sample, blank, draw, draw_between, draw_index

_MIN_SIDE_PX = 8
"""Smaller images have no room for four."""


class Mosaic(Mixing):
    """Four images in the four quarters of a canvas of this image's size (YOLOv4).

    The quarters meet at a point drawn from the canvas' middle half. scale: range from which each
    image draws its size, 1 being the size that fits the canvas. Of an image that is larger than
    its quarter a drawn window is shown (boxes as in `crop`); a smaller one touches the meeting
    point, and the rest of its quarter is filled with the mean colour. The other three images are
    drawn from the data set and shown as they are on disk.
    """

    names = ("mosaic",)

    def __init__(self, prob: float, scale: Sequence[float]) -> None:
        self.prob = prob
        self.low, self.high = scale

    def __call__(self, sample: Sample, pool: Pool) -> Sample:
        if draw() >= self.prob or min(sample.size) < _MIN_SIDE_PX:
            return sample
        height, width = sample.size
        middle_y = int(height * draw_between(0.25, 0.75))
        middle_x = int(width * draw_between(0.25, 0.75))
        mine = draw_index(4)
        canvas = sample.changed(image=blank(height, width)).keep(torch.zeros(0, dtype=torch.long))
        for quarter in range(4):
            source = sample if quarter == mine else pool.any_image()
            below, right = divmod(quarter, 2)
            room = (
                height - middle_y if below else middle_y,
                width - middle_x if right else middle_x,
            )
            tile = self._tile(source, room, sample.size)
            top = middle_y if below else middle_y - tile.size[0]
            left = middle_x if right else middle_x - tile.size[1]
            canvas = put(canvas, tile, top, left)
        return canvas.changed("mosaic")

    def _tile(self, source: Sample, room: tuple[int, int], canvas: tuple[int, int]) -> Sample:
        """What is seen of an image in a quarter of (height, width) `room`."""
        factor = draw_between(self.low, self.high) * fit(source.size, canvas)
        spans = [
            window(length, space, factor) for length, space in zip(source.size, room, strict=True)
        ]
        (top, height, new_height), (left, width, new_width) = spans
        return resized(crop(source, top, left, height, width), new_height, new_width)


class Mixup(Mixing):
    """Blend with another image, objects of both kept (Zhang et al. 2019, bag of freebies).

    The share of this image is drawn from a Beta(alpha, alpha) distribution. The other image keeps
    its shape, is resized to fit this one, and sits in its top left corner. Every object counts
    fully in the loss, whatever its image's share.
    """

    names = ("mixup",)

    def __init__(self, prob: float, alpha: float) -> None:
        self.prob = prob
        self.share = torch.distributions.Beta(alpha, alpha)

    def __call__(self, sample: Sample, pool: Pool) -> Sample:
        if draw() >= self.prob:
            return sample
        height, width = sample.size
        share = self.share.sample().item()
        other = pool.any_image()
        factor = fit(other.size, sample.size)
        sides = [max(1, int(length * factor)) for length in other.size]
        other = resized(other, *sides)
        canvas = put(sample.changed(image=blank(height, width)), other, 0, 0)
        return canvas.changed("mixup", image=blend(sample.image, canvas.image, share))


def fit(size: tuple[int, int], canvas: tuple[int, int]) -> float:
    """The factor that brings an image of `size` to the largest size that fits the canvas."""
    return min(canvas[0] / size[0], canvas[1] / size[1])


def window(length: int, room: int, factor: float) -> tuple[int, int, int]:
    """On one axis: start and length in source pixels of what is shown, and its length in pixels
    of the canvas, where there are `room` of them."""
    span = min(length, max(1, round(room / factor)))
    shown = room if span < length else min(room, max(1, round(length * factor)))
    return draw_index(length - span + 1), span, shown


def put(canvas: Sample, tile: Sample, top: int, left: int) -> Sample:
    """Paste an image with its boxes onto the canvas, whose pixels are written in place."""
    height, width = tile.size
    canvas.image[:, top : top + height, left : left + width] = tile.image
    return canvas.with_boxes_of(tile.shifted(left, top))


def blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    """share x first + (1 - share) x second of two uint8 images, rounded."""
    planes = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in (first, second)]
    # OpenCV works on bytes; torch would go through floating-point copies of both images.
    mixed = cv2.addWeighted(planes[0], share, planes[1], 1 - share, 0)
    return torch.from_numpy(mixed).permute(2, 0, 1)
