"""What a model's settings make of the training objects, said before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from detcli.data.records import Records
from detcli.data.transforms.geometry import scaled_size
from detcli.errors import UsageError
from detcli.models.dense.density_branch import object_densities
from detcli.recipe import Recipe
from detcli.recipe.sections.losses import DensityBranch
from detcli.recipe.sections.priors import EnlargedObjects, SmallObjects
from detcli.recipe.sections.section import walk
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.types import FloatArray


def announce_small_objects(
    recipe: Recipe, records: Records, say: Callable[[str], None], *, must_act: bool
) -> None:
    """Say how many training objects the settings for small ones concern.

    must_act: raise UsageError where there are none, unless an augmentation shrinks objects.
    """
    augment = recipe.data.augment.chosen()
    shrinking = [name for name, each in augment.items() if each.effects.shrinks]
    for key, setting in walk(recipe.model, "model"):
        if not isinstance(setting, EnlargedObjects | SmallObjects):
            continue
        sides = input_sides(recipe, records)
        count = int((sides < setting.max_side_px).sum())
        if must_act and not count and not shrinking:
            smallest = f"the smallest has {sides.min():.0f}" if len(sides) else "there are none"
            raise UsageError(
                f"{key} cannot act: no training object is smaller than {setting.max_side_px:g} "
                f"pixels at the network's input ({smallest}; max_side_px); set it to null"
            )
        note = f"; {', '.join(shrinking)} can make more" if shrinking else ""
        say(
            f"{key}: {count} of {len(sides)} training objects are smaller than "
            f"{setting.max_side_px:g} pixels at the smallest input size{note}"
        )


def announce_density(
    recipe: Recipe, records: Records, say: Callable[[str], None], *, must_act: bool
) -> None:
    """Say how crowded the training objects are, where the recipe asks for a predicted density.

    must_act: raise UsageError where none overlaps with another of its class, unless an
    augmentation lays images on others; what pastes objects looks for a free place.
    """
    if not any(isinstance(section, DensityBranch) for _, section in walk(recipe.model)):
        return
    densities = object_densities(_targets(records))
    augment = recipe.data.augment.chosen()
    mixing = [name for name, each in augment.items() if each.effects.crowds]
    if must_act and not (densities > 0).any() and not mixing:
        raise UsageError(
            "model.density_branch cannot act: none of the "
            f"{len(densities)} training objects overlaps with another of its class; set it to null"
        )
    line = (
        f"model.density_branch: {int((densities > 0).sum())} of {len(densities)} training objects "
        "overlap with another of their class"
    )
    threshold = recipe.postprocess.acting_options().get("iou_threshold")
    if threshold is not None:
        line += (
            f", {int((densities > threshold).sum())} of them by more than the {threshold:g} of "
            "postprocess.iou_threshold"
        )
    say(line + (f"; {', '.join(mixing)} can make more" if mixing else ""))


def _targets(records: Records) -> list[Target]:
    """The learned objects of each image, in pixels of the image."""
    boxes = np.concatenate(
        [records.boxes_xywh[:, :2], records.boxes_xywh[:, :2] + records.boxes_xywh[:, 2:]], axis=1
    )
    learned, nothing = records.learned, torch.zeros(0, 4)
    targets = []
    for image, (height, width) in enumerate(records.sizes.tolist()):
        rows = np.arange(records.offsets[image], records.offsets[image + 1])
        rows = rows[learned[rows]]
        own, labels = torch.from_numpy(boxes[rows]).float(), torch.from_numpy(records.labels[rows])
        targets.append(Target(own, labels, nothing, (height, width)))
    return targets


def input_sides(recipe: Recipe, records: Records) -> FloatArray:
    """(G',) roots of the areas of the training objects, in pixels of the network input where the
    resize makes images smallest."""
    resize = recipe.data.resize
    short, long = min(resize.short), resize.long if resize.keep_aspect else None
    sizes = [(int(height), int(width)) for height, width in records.sizes]
    scaled = np.array([scaled_size(size, short, long) for size in sizes])
    factors = np.sqrt(scaled.prod(axis=1) / records.sizes.prod(axis=1))
    sides = np.sqrt(records.boxes_xywh[:, 2:].prod(axis=1))
    sides = sides * np.repeat(factors, np.diff(records.offsets))
    return np.asarray(sides[records.learned])
