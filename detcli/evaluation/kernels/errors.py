"""The compiled part of the error kinds. Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import box_iou, box_of, jit

if TYPE_CHECKING:
    from detcli.types import BoolArray, FloatArray, IntArray

# Numbers of the kinds in `kinds_kernel`'s result; -1: no error.
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(5)


@jit("Tuple((f8, i8, f8, i8, f8))(f8[::1], i8, f8[:, ::1], i8[::1], b1[::1], b1[::1], i8)")
def _overlaps(
    box: FloatArray,
    label: int,
    objects: FloatArray,
    object_labels: IntArray,
    counted: BoolArray,
    found: BoolArray,
    offset: int,
) -> tuple[float, int, float, int, float]:
    """Largest IoU with an object of the same class, that object, the same for other classes, and
    the largest IoU with a found object of the same class. Objects are numbered from offset."""
    same, same_object, other, other_object, taken = 0.0, -1, 0.0, -1, 0.0
    corners = box_of(box)
    for g in range(len(objects)):
        if not counted[g]:
            continue
        iou = box_iou(corners, box_of(objects[g]))
        if object_labels[g] != label:
            if iou > other:
                other, other_object = iou, offset + g
            continue
        if iou > same:
            same, same_object = iou, offset + g
        if found[g]:
            taken = max(taken, iou)
    return same, same_object, other, other_object, taken


@jit(
    "i8[:, ::1](f8[:, ::1], i8[::1], i8[::1], b1[::1], f8[:, ::1], i8[::1], b1[::1], b1[::1],"
    " i8[::1], f8, f8)"
)
def kinds_kernel(
    boxes: FloatArray,
    labels: IntArray,
    image: IntArray,
    wrong: BoolArray,
    object_boxes: FloatArray,
    object_labels: IntArray,
    counted: BoolArray,
    found: BoolArray,
    object_offsets: IntArray,
    foreground: float,
    background: float,
) -> IntArray:
    """(D, 2) kind of error, and for the first two kinds the object it would have found, or -1.

    boxes (D, 4) and object_boxes (G, 4) are xywh; wrong (D,): false positives, the only ones
    looked at; counted (G,): objects to find; found (G,): those with a true positive.
    """
    result = np.full((len(boxes), 2), -1, np.int64)
    for row in range(len(boxes)):
        if not wrong[row]:
            continue
        first, last = object_offsets[image[row]], object_offsets[image[row] + 1]
        same, same_object, other, other_object, taken = _overlaps(
            boxes[row],
            labels[row],
            object_boxes[first:last],
            object_labels[first:last],
            counted[first:last],
            found[first:last],
            first,
        )
        if background <= same <= foreground:
            result[row] = LOCALISATION, same_object
        elif other >= foreground:
            result[row] = CLASSIFICATION, other_object
        elif taken >= foreground:
            result[row, 0] = DUPLICATE
        elif max(same, other) <= background:
            result[row, 0] = BACKGROUND
        else:
            result[row, 0] = BOTH
    return result
