"""Which input shapes a recipe produces from a data set."""

from __future__ import annotations

import math

import numpy as np

from detcli.data.records import Records
from detcli.data.transforms.geometry import scaled_size
from detcli.recipe import Recipe


def input_shapes(recipe: Recipe, records: Records) -> set[tuple[int, int]]:
    """The padded (height, width) that single training images can have.

    A batch of images with several shapes takes the largest height and the largest width.
    """
    data = recipe.data
    shorts, long = data.resize.short, data.resize.long if data.resize.keep_aspect else None
    if data.resize.pick == "range":
        shorts = tuple(range(shorts[0], shorts[1] + 1))
    sizes = [(int(height), int(width)) for height, width in np.unique(records.sizes, axis=0)]
    return {
        (data.padded(height), data.padded(width))
        for size in sizes
        for short in shorts
        for height, width in [scaled_size(size, short, long)]
    }


def largest_shape(recipe: Recipe, records: Records) -> tuple[int, int]:
    """The largest padded (height, width) of a batch: images of a batch share their orientation
    where the recipe groups by aspect ratio, otherwise any two can meet."""
    shapes = input_shapes(recipe, records)
    if recipe.data.group_by_aspect:
        groups = [
            [shape for shape in shapes if (shape[1] >= shape[0]) == wide] for wide in (True, False)
        ]
    else:
        groups = [list(shapes)]
    hulls = [
        (max(height for height, _ in group), max(width for _, width in group))
        for group in groups
        if group
    ]
    return max(hulls, key=math.prod)


def has_fixed_shape(recipe: Recipe, records: Records) -> bool:
    """Whether every training batch has the same shape."""
    data = recipe.data
    changes = any(each.effects.reshapes for each in data.augment.chosen().values())
    return len(input_shapes(recipe, records)) == 1 and not (changes and data.resize.keep_aspect)


def most_boxes(recipe: Recipe, records: Records) -> int:
    """The most boxes that a training image can have."""
    densest = int(np.diff(records.offsets).max(initial=0))
    augmentations = recipe.data.augment.chosen().values()
    return densest + sum(each.more_boxes(densest) for each in augmentations)
