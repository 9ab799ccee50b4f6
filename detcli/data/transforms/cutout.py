"""Hide parts of an image."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from detcli.data.transforms.sample import IMAGENET_MEAN, Sample, draw

MAX_HIDDEN = 0.7
"""An object of which a larger share is hidden becomes ignored: nothing is left to learn from."""

Window = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


class Cutout:
    """Fill squares at random places with the mean colour (DeVries and Taylor, 2017).

    num: squares per image; side: of each, as a share of the image's shorter side. The centre of a
    square is anywhere in the image, so a part of it can lie outside. See `hide` for the boxes.
    """

    names = ("cutout",)

    def __init__(self, prob: float, num: int, side: float) -> None:
        self.prob = prob
        self.num = num
        self.side = side

    def __call__(self, sample: Sample) -> Sample:
        if draw() >= self.prob:
            return sample
        side = max(1, round(self.side * min(sample.size)))
        return hide(sample, [square(sample, side) for _ in range(self.num)]).changed("cutout")


def square(sample: Sample, side: int) -> Window:
    """A square of `side` pixels around a drawn point of the image, cut to the image."""
    height, width = sample.size
    left, top = int(draw() * width) - side // 2, int(draw() * height) - side // 2
    return max(0, left), max(0, top), min(width, left + side), min(height, top + side)


def hide(sample: Sample, windows: Iterable[Window]) -> Sample:
    """Fill windows with the mean colour; objects that are hidden but for a rest (MAX_HIDDEN)
    become ignored, the boxes of the others stay as they are."""
    image = sample.image.clone()
    fill = torch.tensor(IMAGENET_MEAN, dtype=torch.uint8)[:, None, None]
    hidden = torch.zeros(sample.size, dtype=torch.float32)
    for left, top, right, bottom in windows:
        image[:, top:bottom, left:right] = fill
        hidden[top:bottom, left:right] = 1
    ignore = sample.ignore.clone()
    for row, box in enumerate(sample.boxes.tolist()):
        left, top = (int(value) for value in box[:2])
        right, bottom = (max(int(value + 0.999), 1) for value in box[2:])
        share = hidden[top:bottom, left:right].mean()
        ignore[row] |= bool(share > MAX_HIDDEN)
    return sample.changed(image=image, ignore=ignore)
