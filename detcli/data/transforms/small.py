"""Boxes of a record table, and which of them are small. Letters: I images, G boxes, M of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.data.records import Records

if TYPE_CHECKING:
    from detcli.types import BoolArray, FloatArray, IntArray


def small_boxes(records: Records, max_side_px: float) -> BoolArray:
    """(G,) objects, not ignored ones, whose box has an area below max_side_px squared, in pixels
    of the image as stored; 32 is COCO's limit."""
    small = records.boxes_xywh[:, 2:].prod(axis=1) < max_side_px**2
    return np.asarray(small & ~records.crowd & ~records.difficult)


def boxes_of(records: Records, index: int) -> tuple[FloatArray, BoolArray]:
    """(M, 4) xyxy boxes of an image, cut to it, and (M,) which of them are ignored."""
    rows = records.rows(index)
    boxes = records.boxes_xywh[rows].copy()
    boxes[:, 2:] += boxes[:, :2]
    height, width = records.size(index)
    ignore = records.crowd[rows] | records.difficult[rows]
    return boxes.clip(0, (width, height, width, height)), ignore


def images_with(records: Records, boxes: BoolArray) -> IntArray:
    """The images that own at least one of the chosen (G,) boxes, in order."""
    before = np.concatenate([[0], np.cumsum(boxes)])
    return np.flatnonzero(np.diff(before[records.offsets]))
