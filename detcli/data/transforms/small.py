"""Boxes of a record table, and which of them are small. Letters: I images, G boxes, M of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from detcli.data.records import Records

if TYPE_CHECKING:
    from detcli.types import BoolArray, IntArray


def small_boxes(records: Records, max_side_px: float) -> BoolArray:
    """(G,) objects, not ignored ones, whose box has an area below max_side_px squared, in pixels
    of the image as stored; 32 is COCO's limit."""
    small = records.boxes_xywh[:, 2:].prod(axis=1) < max_side_px**2
    return np.asarray(small & records.learned)


def boxes_of(records: Records, index: int) -> tuple[Tensor, Tensor]:
    """(M, 4) float64 xyxy boxes of an image, cut to it, and (M,) which of them are ignored."""
    rows = records.rows(index)
    boxes = records.boxes_xywh[rows].copy()
    boxes[:, 2:] += boxes[:, :2]
    height, width = records.size(index)
    ignore = records.crowd[rows] | records.difficult[rows]
    inside = boxes.clip(0, (width, height, width, height))
    return torch.from_numpy(inside), torch.from_numpy(ignore)


def images_with(records: Records, boxes: BoolArray) -> IntArray:
    """The images that own at least one of the chosen (G,) boxes, in order."""
    before = np.concatenate([[0], np.cumsum(boxes)])
    return np.flatnonzero(np.diff(before[records.offsets]))


def no_objects(records: Records, _: Mapping[str, Any]) -> str | None:
    """Why an augmentation that needs an object cannot act; None if it can."""
    return None if records.learned.any() else "no training image has an object"


def nothing_small(records: Records, keywords: Mapping[str, Any]) -> str | None:
    """Why an augmentation of small objects cannot act; None if it can."""
    side = keywords["max_side_px"]
    if small_boxes(records, side).any():
        return None
    areas = records.boxes_xywh[records.learned, 2:].prod(axis=1)
    smallest = f"the smallest has {np.sqrt(areas.min()):.0f}" if len(areas) else "there are none"
    return f"no training object is smaller than {side:g} pixels ({smallest}; max_side_px)"
