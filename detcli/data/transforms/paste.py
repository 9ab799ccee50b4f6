"""Copy-paste of small objects. Letters: M boxes of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detcli.data.records import Records
from detcli.data.transforms.crop import crop
from detcli.data.transforms.geometry import resized
from detcli.data.transforms.pool import Mixing, Pool
from detcli.data.transforms.sample import Sample, draw, draw_between, draw_index
from detcli.data.transforms.small import boxes_of, images_with, nothing_small, small_boxes

MARGIN = 0.25
"""Surroundings that are copied with an object, as a fraction of its sides; they fade out."""

_SCALE = (0.8, 1.2)
_TRIES = 20


class CopyPaste(Mixing):
    """Paste copies of small objects where they hide nothing (Kisantal et al. 2019).

    max_side_px: an object is small if its box has an area below max_side_px squared, in pixels of
    the image as stored; copies: how many are pasted at most. The copies are of this image's small
    objects, or of those of a drawn image if it has none. Each is of 0.8 to 1.2 times the size, at
    a place where it overlaps no box, ignored ones included; where there is no such place in 20
    draws it is left out. Objects that touch other boxes are not copied.

    The paper cuts objects out along their masks and also turns them by up to 15 degrees. Without
    masks the box is copied with a margin that fades into the background.
    """

    names = ("copy_paste",)

    def __init__(self, prob: float, max_side_px: float, copies: int) -> None:
        self.prob = prob
        self.max_side_px = max_side_px
        self.copies = copies

    def __call__(self, sample: Sample, pool: Pool) -> Sample:
        if draw() >= self.prob:
            return sample
        source: Sample | None = sample
        if not copyable(sample.boxes, sample.ignore, self.max_side_px):
            source = self._other(pool)
        if source is None:
            return sample
        rows = copyable(source.boxes, source.ignore, self.max_side_px)
        result = sample.changed(image=sample.image.clone())
        for _ in range(self.copies):
            patch = cut_out(source, rows[draw_index(len(rows))])
            place = free_place(result.boxes, result.size, patch.size)
            if place is not None:
                result = paste(result, patch, *place)
        return result.changed("copy_paste") if len(result.boxes) > len(sample.boxes) else sample

    def _other(self, pool: Pool) -> Sample | None:
        """A drawn image that has something to copy; None if none was found."""
        positions = pool.with_small(self.max_side_px)
        for _ in range(_TRIES if positions else 0):
            position = positions[draw_index(len(positions))]
            boxes, ignore = boxes_of(pool.records, position)
            if copyable(boxes.float(), ignore, self.max_side_px):
                return pool.load(position)
        return None


def copyable(boxes: Tensor, ignore: Tensor, max_side_px: float) -> list[int]:
    """Rows of small objects whose surroundings hold no other box.

    boxes (M, 4) xyxy; ignore (M,) bool.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    small = (sides.prod(dim=1) < max_side_px**2) & ~ignore
    rows: list[int] = small.nonzero()[:, 0].tolist()
    return [row for row in rows if overlaps(boxes, with_margin(boxes[row])).sum() == 1]


def nothing_to_copy(records: Records, keywords: Mapping[str, Any]) -> str | None:
    """Why CopyPaste could do nothing on these images; None if it can act."""
    side = keywords["max_side_px"]
    if why := nothing_small(records, keywords):
        return why
    for index in images_with(records, small_boxes(records, side)):
        boxes, ignore = boxes_of(records, int(index))
        if copyable(boxes, ignore, side):
            return None
    return f"every training object smaller than {side:g} pixels touches another box"


def with_margin(box: Tensor) -> Tensor:
    """(4,) the box with its surroundings."""
    margin = MARGIN * (box[2:] - box[:2])
    return torch.cat([box[:2] - margin, box[2:] + margin])


def overlaps(boxes: Tensor, window: Tensor) -> Tensor:
    """(M,) bool: which boxes share area with a window (4,)."""
    apart = (boxes[:, :2] >= window[2:]) | (boxes[:, 2:] <= window[:2])
    return ~apart.any(dim=1)


def cut_out(source: Sample, row: int) -> Sample:
    """One object with its surroundings, resized by a drawn factor."""
    alone = source.keep(torch.tensor([row]))
    left, top, right, bottom = pixels_around(with_margin(source.boxes[row]), source.size)
    patch = crop(alone, top, left, bottom - top, right - left)
    factor = draw_between(*_SCALE)
    sides = [max(2, round(length * factor)) for length in patch.size]
    return resized(patch, *sides)


def pixels_around(box: Tensor, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels that a box (4,) touches in an image of `size`."""
    height, width = size
    x1, y1, x2, y2 = box.tolist()
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    return left, top, min(width, math.ceil(x2)), min(height, math.ceil(y2))


def free_place(
    boxes: Tensor, whole: tuple[int, int], part: tuple[int, int]
) -> tuple[int, int] | None:
    """A drawn (top, left) at which a patch of size `part` lies inside an image of size `whole` and
    overlaps none of the boxes (M, 4); None if none was found."""
    room = [length - mine for length, mine in zip(whole, part, strict=True)]
    if min(room) < 0:
        return None
    for _ in range(_TRIES):
        top, left = (draw_index(free + 1) for free in room)
        window = torch.tensor([left, top, left + part[1], top + part[0]], dtype=torch.float32)
        if not overlaps(boxes, window).any():
            return top, left
    return None


def paste(sample: Sample, patch: Sample, top: int, left: int) -> Sample:
    """Lay the patch over the image, whose pixels are written in place, and add its box."""
    height, width = patch.size
    target = sample.image[:, top : top + height, left : left + width]
    x1, y1, x2, y2 = patch.boxes[0].tolist()
    weight = fade(height, y1, y2)[:, None] * fade(width, x1, x2)
    target.copy_(torch.lerp(target.float(), patch.image.float(), weight).round_())
    return sample.with_boxes_of(patch.shifted(left, top))


def fade(length: int, low: float, high: float) -> Tensor:
    """(length,) weights: 1 from low to high, falling to 0 towards both ends."""
    centres = torch.arange(length) + 0.5
    before = centres / max(low, 0.5)
    behind = (length - centres) / max(length - high, 0.5)
    return torch.minimum(before, behind).clamp(max=1.0)
