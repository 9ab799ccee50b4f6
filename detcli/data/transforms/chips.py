"""Chips: square windows in which objects of a range of sizes are learned. Letters: N boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detcli.data.records import Records
from detcli.data.transforms.crop import crop
from detcli.data.transforms.paste import overlaps
from detcli.data.transforms.sample import IMAGENET_MEAN, Sample, draw, draw_index

_STRIDE = 16
"""Chips begin on a grid of a 16th of their side (32 of 512 pixels in SNIPER)."""

_TRIES = 30


class Chips:
    """One chip of the image in its place (SNIPER, Singh et al. 2018).

    sides_px: sides of chips in pixels of the image as stored; whatever its side, a chip is resized
    like an image, so the small ones magnify. valid: range of the sizes (square root of the area)
    that count as objects, as fractions of the chip's side. negative: fraction of images that give a
    chip without any object.

    A positive chip has a side drawn from those that suit some object of the image, and is drawn
    from as few chips as hold all valid objects (chosen greedily, as in the paper). Objects of
    other sizes, and those whose centre lies outside, are ignored. A chip past the border of the
    image is filled up. An image that gives no chip of either kind stays whole.

    The paper trains on all chips of an image in each epoch and looks for negative chips where a
    proposal network raises false alarms; here each epoch sees one drawn chip of every image.
    """

    names = ("chip_positive", "chip_negative")

    def __init__(self, sides_px: Sequence[int], valid: Sequence[float], negative: float) -> None:
        self.sides_px = tuple(sides_px)
        self.valid = tuple(valid)
        self.negative = negative

    def __call__(self, sample: Sample) -> Sample:
        kinds = [self._positive, self._negative]
        if draw() < self.negative:
            kinds.reverse()
        for kind in kinds:
            chip = kind(sample)
            if chip is not None:
                return chip
        return sample

    def _positive(self, sample: Sample) -> Sample | None:
        usable = [
            (side, valid)
            for side in self.sides_px
            for valid in [has_valid_size(sample.boxes, side, self.valid) & ~sample.ignore]
            if valid.any()
        ]
        if not usable:
            return None
        side, valid = usable[draw_index(len(usable))]
        corners = cover(sample.boxes[valid], side, sample.size)
        left, top = corners[draw_index(len(corners))]
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        corner = torch.tensor([left, top])
        inside = ((centres > corner) & (centres < corner + side)).all(dim=1)
        chip = take_chip(sample.changed(ignore=~(valid & inside)), left, top, side)
        return chip.changed("chip_positive")

    def _negative(self, sample: Sample) -> Sample | None:
        side = self.sides_px[draw_index(len(self.sides_px))]
        height, width = sample.size
        for _ in range(_TRIES):
            left, top = (draw_index(max(0, length - side) + 1) for length in (width, height))
            window = torch.tensor([left, top, left + side, top + side])
            if not overlaps(sample.boxes, window).any():
                return take_chip(sample, left, top, side).changed("chip_negative")
        return None


def has_valid_size(boxes: Tensor, side: int, valid: Sequence[float]) -> Tensor:
    """(N,) bool: boxes (N, 4) xyxy that fit a chip and are of a valid size in it."""
    sides = boxes[:, 2:] - boxes[:, :2]
    share = sides.prod(dim=1).sqrt() / side
    # Chips begin on whole pixels: half a pixel of rounding at either end, and some to spare.
    return (share >= valid[0]) & (share <= valid[1]) & (sides <= side - 2).all(dim=1)


def no_valid_size(records: Records, keywords: Mapping[str, Any]) -> str | None:
    """Why Chips would find no object in these images; None if it can act."""
    boxes = torch.from_numpy(records.boxes_xywh[records.learned])
    boxes = torch.cat([torch.zeros_like(boxes[:, :2]), boxes[:, 2:]], dim=1)
    sides, (low, high) = keywords["sides_px"], keywords["valid"]
    if any(has_valid_size(boxes, side, (low, high)).any() for side in sides):
        return None
    shown = ", ".join(map(str, sides))
    return (
        f"no training object is between {low:g} and {high:g} of a chip's side ({shown} pixels); "
        "change sides_px or valid"
    )


def cover(boxes: Tensor, side: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(left, top) of chips that together hold every box (N, 4) whole, N at least 1: always one of
    those that hold most of the boxes that are left, drawn, so that an object is not always in the
    same place of its chip."""
    left, inside_x = _windows(boxes[:, 0], boxes[:, 2], side, size[1])
    top, inside_y = _windows(boxes[:, 1], boxes[:, 3], side, size[0])
    waiting = torch.ones(len(boxes))
    chosen = []
    while waiting.any():
        counts = (inside_y * waiting) @ inside_x.T
        best = (counts == counts.max()).nonzero()
        row, column = best[draw_index(len(best))].tolist()
        chosen.append((int(left[column]), int(top[row])))
        waiting = waiting * (1 - inside_y[row] * inside_x[column])
    return chosen


def _windows(low: Tensor, high: Tensor, side: int, length: int) -> tuple[Tensor, Tensor]:
    """On one axis: where chips can begin, and which boxes (a column each) each of them holds."""
    last = max(0, length - side)
    around = ((low + high - side) / 2).round().long().clamp(0, last)
    grid = torch.arange(0, last + 1, max(1, side // _STRIDE))
    start = torch.unique(torch.cat([grid, torch.tensor([last]), around]))
    inside = (low >= start[:, None]) & (high <= start[:, None] + side)
    return start, inside.float()


def take_chip(sample: Sample, left: int, top: int, side: int) -> Sample:
    """The chip as an image of `side` x `side` pixels, filled up right and below."""
    height, width = (
        min(side, length - at) for length, at in zip(sample.size, (top, left), strict=True)
    )
    chip = crop(sample, top, left, height, width)
    if (height, width) == (side, side):
        return chip
    fill = [float(value) for value in IMAGENET_MEAN]
    return chip.changed(image=F.pad(chip.image, [0, 0, side - width, side - height], fill=fill))
