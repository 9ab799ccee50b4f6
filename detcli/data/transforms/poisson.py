"""Poisson blending of objects into other images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detcli.data.records import Records
from detcli.data.transforms.blending import blend_in
from detcli.data.transforms.paste import copyable, cut_out, free_place, pixels_around
from detcli.data.transforms.patches import is_whole, with_room
from detcli.data.transforms.pool import Mixing, Pool, too_few
from detcli.data.transforms.sample import Sample, draw, draw_index
from detcli.data.transforms.small import boxes_of, no_objects


class Poisson(Mixing):
    """Blend objects of another image into this one (note 002, for small data sets).

    objects: how many at most, each drawn from those of one drawn image that touch neither another
    box nor the border. Each is of 0.8 to 1.2 times its size and goes to a place where it overlaps
    no box, ignored ones included; where no such place is found it is left out. See `blend_in`.
    """

    names = ("poisson",)

    def __init__(self, prob: float, objects: int) -> None:
        self.prob = prob
        self.objects = objects

    def __call__(self, sample: Sample, pool: Pool) -> Sample:
        if draw() >= self.prob:
            return sample
        source = pool.any_image()
        rows = blendable(source.boxes, source.ignore, source.size)
        if not rows:
            return sample
        result = sample.changed(image=sample.image.clone())
        for _ in range(self.objects):
            cut = cut_out(source, rows[draw_index(len(rows))])
            patch = with_room(cut, pixels_around(cut.boxes[0], cut.size))
            place = free_place(result.boxes, result.size, patch.sample.size)
            if place is not None:
                result = blend_in(result, patch.sample, patch.core, *place, blend="poisson")
        return result.changed("poisson") if len(result.boxes) > len(sample.boxes) else sample


def blendable(boxes: Tensor, ignore: Tensor, size: tuple[int, int]) -> list[int]:
    """Rows of objects of an image of `size` that touch neither another box nor the border.

    boxes (M, 4) xyxy; ignore (M,) bool.
    """
    return [row for row in copyable(boxes, ignore, math.inf) if is_whole(boxes[row], size)]


def nothing_to_blend(records: Records, keywords: Mapping[str, Any]) -> str | None:
    """Why Poisson could do nothing on these images; None if it can act."""
    if why := too_few(records, keywords) or no_objects(records, keywords):
        return why
    for index in range(len(records)):
        boxes, ignore = boxes_of(records, index)
        if blendable(boxes, ignore, records.size(index)):
            return None
    return "every training object touches another box or the border"
