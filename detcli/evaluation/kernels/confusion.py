"""The compiled part of the confusion matrix. Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import box_of, iou_or_share, jit

if TYPE_CHECKING:
    from detcli.types import BoolArray, FloatArray, IntArray


@jit("void(f8[:, ::1], f8[:, ::1], b1[::1], f8[:, ::1])")
def _fill_iou(boxes: FloatArray, objects: FloatArray, crowd: BoolArray, iou: FloatArray) -> None:
    """IoU (D, G) of xywh boxes; for a crowd region, the fraction of the box that lies inside."""
    for d in range(len(boxes)):
        box = box_of(boxes[d])
        for g in range(len(objects)):
            iou[d, g] = iou_or_share(box, box_of(objects[g]), crowd[g])


@jit("void(i8[::1], i8[::1], b1[::1], f8, f8[:, ::1], i8[::1], b1[::1])")
def _pair(
    labels: IntArray,
    object_labels: IntArray,
    counted: BoolArray,
    iou_threshold: float,
    iou: FloatArray,
    partner: IntArray,
    free: BoolArray,
) -> None:
    """Pair detections (D,), best score first, with counted objects (G,), largest IoU first.

    Of equal IoUs a pair of the same class comes first, then the better score, then the earlier
    object. partner (D,) comes as -1 and free (G,) as true.
    """
    while True:
        best, chosen, other, same = 0.0, -1, -1, False
        for d in range(len(labels)):
            if partner[d] >= 0:
                continue
            for g in range(len(object_labels)):
                if not (counted[g] and free[g]) or iou[d, g] < iou_threshold:
                    continue
                agrees = labels[d] == object_labels[g]
                if iou[d, g] > best or (iou[d, g] == best and agrees and not same):
                    best, chosen, other, same = iou[d, g], d, g, agrees
        if chosen < 0:
            return
        partner[chosen] = other
        free[other] = False


@jit(
    "i8[:, ::1](f8[:, ::1], i8[::1], i8[::1], f8[:, ::1], i8[::1], b1[::1], b1[::1], i8[::1],"
    " f8, i8)"
)
def confusion_kernel(
    boxes: FloatArray,
    labels: IntArray,
    offsets: IntArray,
    object_boxes: FloatArray,
    object_labels: IntArray,
    crowd: BoolArray,
    counted: BoolArray,
    object_offsets: IntArray,
    iou_threshold: float,
    num_classes: int,
) -> IntArray:
    """(K + 1, K + 1) counts, rows: class of the object, columns: class of the detection.

    Both tables are grouped by image; detections of an image come best score first.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for image in range(len(offsets) - 1):
        first, last = offsets[image], offsets[image + 1]
        begin, end = object_offsets[image], object_offsets[image + 1]
        partner, free = np.full(last - first, -1, np.int64), np.ones(end - begin, np.bool_)
        iou = np.empty((last - first, end - begin))
        _fill_iou(boxes[first:last], object_boxes[begin:end], crowd[begin:end], iou)
        _pair(
            labels[first:last],
            object_labels[begin:end],
            counted[begin:end],
            iou_threshold,
            iou,
            partner,
            free,
        )
        for d in range(last - first):
            label = labels[first + d]
            if partner[d] >= 0:
                counts[object_labels[begin + partner[d]], label] += 1
                continue
            excused = False
            for g in range(end - begin):
                if not counted[begin + g] and object_labels[begin + g] == label:
                    excused |= iou[d, g] >= iou_threshold
            if not excused:
                counts[num_classes, label] += 1
        for g in range(end - begin):
            if counted[begin + g] and free[g]:
                counts[object_labels[begin + g], num_classes] += 1
    return counts
