"""Before the first step: can the augmentations that a recipe asks for act on these images?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from detcli.data.records import Records
from detcli.data.transforms.chips import has_valid_size
from detcli.data.transforms.oversample import Oversample
from detcli.data.transforms.paste import copyable
from detcli.data.transforms.patches import INDEX, read_patches
from detcli.data.transforms.poisson import blendable
from detcli.data.transforms.small import boxes_of, images_with, small_boxes
from detcli.errors import UsageError


def check_augmentations(records: Records, augment: Mapping[str, Any]) -> None:
    """Refuse augmentations that could do nothing on this training split.

    augment: as in `build_transforms`. Raises UsageError with a line for each of them, DataError for
    patches that cannot be read.
    """
    lines = []
    for name, reason in _REASONS.items():
        settings = augment.get(name)
        why = None if settings is None else reason(records, settings)
        if why:
            lines.append(f"data.augment.{name} cannot act: {why}; set it to null")
    if lines:
        raise UsageError("\n".join(lines))


def _too_few(records: Records, _: Mapping[str, Any]) -> str | None:
    if len(records) >= 2:
        return None
    return f"it mixes different images, and the training split has {len(records)}"


def _no_objects(records: Records, _: Mapping[str, Any]) -> str | None:
    if (~(records.crowd | records.difficult)).any():
        return None
    return "no training image has an object"


def _nothing_small(records: Records, settings: Mapping[str, Any]) -> str | None:
    side = settings["max_side_px"]
    if small_boxes(records, side).any():
        return None
    areas = records.boxes_xywh[:, 2:].prod(axis=1)[~(records.crowd | records.difficult)]
    smallest = f"the smallest has {np.sqrt(areas.min()):.0f}" if len(areas) else "there are none"
    return f"no training object is smaller than {side:g} pixels ({smallest}; max_side_px)"


def _nothing_to_copy(records: Records, settings: Mapping[str, Any]) -> str | None:
    side = settings["max_side_px"]
    if why := _nothing_small(records, settings):
        return why
    for index in images_with(records, small_boxes(records, side)):
        boxes, ignore = (torch.from_numpy(column) for column in boxes_of(records, int(index)))
        if copyable(boxes, ignore, side):
            return None
    return f"every training object smaller than {side:g} pixels touches another box"


def _nothing_to_blend(records: Records, settings: Mapping[str, Any]) -> str | None:
    if why := _too_few(records, settings) or _no_objects(records, settings):
        return why
    for index in range(len(records)):
        boxes, ignore = (torch.from_numpy(column) for column in boxes_of(records, index))
        if blendable(boxes, ignore, records.size(index)):
            return None
    return "every training object touches another box or the border"


def _no_patches(records: Records, settings: Mapping[str, Any]) -> str | None:
    folder = settings["patches"]
    if not os.path.isfile(os.path.join(folder, INDEX)):
        return f"patches: {folder} has no {INDEX}; `detcli data inject` writes such a folder"
    found = read_patches(folder)
    for key, patches in (("negatives", found.negatives), ("objects", found.objects)):
        if settings[key] and not patches:
            return f"patches: {folder} has no {key}, but {key} is {settings[key]}; set that to 0"
    if settings["objects"] and found.class_names != records.class_names:
        theirs, ours = (", ".join(names) for names in (found.class_names, records.class_names))
        return f"patches: {folder} has the classes {theirs}, and the data {ours}"
    return None


def _nothing_to_repeat(records: Records, settings: Mapping[str, Any]) -> str | None:
    if why := _nothing_small(records, settings):
        return why
    extra = Oversample(**settings).extra(records)
    if len(extra) < len(records) * (settings["ratio"] - 1):
        return None
    return "every training image has small objects, so it would only make epochs longer"


def _no_valid_size(records: Records, settings: Mapping[str, Any]) -> str | None:
    boxes = torch.from_numpy(records.boxes_xywh[~(records.crowd | records.difficult)])
    boxes = torch.cat([torch.zeros_like(boxes[:, :2]), boxes[:, 2:]], dim=1)
    sides, valid = settings["sides_px"], settings["valid"]
    if any(has_valid_size(boxes, side, valid).any() for side in sides):
        return None
    low, high = valid
    shown = ", ".join(map(str, sides))
    return (
        f"no training object is between {low:g} and {high:g} of a chip's side ({shown} pixels); "
        "change sides_px or valid"
    )


_REASONS: dict[str, Callable[[Records, Mapping[str, Any]], str | None]] = {
    "mosaic": _too_few,
    "mixup": _too_few,
    "duck_injection": _no_patches,
    "poisson": _nothing_to_blend,
    "copy_paste": _nothing_to_copy,
    "oversample": _nothing_to_repeat,
    "chips": _no_valid_size,
    "iou_crop": _no_objects,
}
