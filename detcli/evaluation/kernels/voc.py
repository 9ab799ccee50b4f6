"""The compiled part of the Pascal VOC evaluation. Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import jit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import BoolArray, FloatArray, IntArray


@jit("Tuple((f8, i8))(f8[::1], f8[:, ::1], f8)")
def _best_object(box: FloatArray, objects: FloatArray, extra_px: float) -> tuple[float, int]:
    """Largest IoU between one box and G objects, all xywh, and the first object that has it."""
    x, y, width, height = box
    best, chosen = 0.0, -1
    for index in range(len(objects)):
        gx, gy, gwidth, gheight = objects[index]
        shared_width = min(x + width, gx + gwidth) - max(x, gx) + extra_px
        shared_height = min(y + height, gy + gheight) - max(y, gy) + extra_px
        if shared_width <= 0 or shared_height <= 0:
            continue
        shared = shared_width * shared_height
        area = (width + extra_px) * (height + extra_px)
        iou = shared / (area + (gwidth + extra_px) * (gheight + extra_px) - shared)
        if iou > best:
            best, chosen = iou, index
    return best, chosen


@jit("i1[::1](f8[:, ::1], i8[:, ::1], f8[:, ::1], b1[::1], f8, f8)")
def voc_match_kernel(
    boxes: FloatArray,
    objects: IntArray,
    object_boxes: FloatArray,
    excused: BoolArray,
    iou_threshold: float,
    extra_px: float,
) -> NDArray[np.int8]:
    """(D,) 1 true positive, 0 false positive, -1 neither.

    Detections are sorted by score at least within their class and image; boxes (D, 4) and
    object_boxes (G, 4) are xywh, lengths grow by extra_px; objects (D, 2) from `objects_of`.
    """
    verdict = np.zeros(len(boxes), np.int8)
    found = np.zeros(len(object_boxes), np.bool_)
    for row in range(len(boxes)):
        first, last = objects[row]
        iou, chosen = _best_object(boxes[row], object_boxes[first:last], extra_px)
        if chosen < 0 or iou < iou_threshold:
            continue
        chosen += first
        if excused[chosen]:
            verdict[row] = -1
        elif not found[chosen]:
            found[chosen] = True
            verdict[row] = 1
    return verdict
