"""The compiled parts of the evaluation. Importing this module compiles or loads them.

Letters: K classes, D detections, G objects, I images, T IoU thresholds, A area ranges,
R recall thresholds. Bit t of a `uint16` stands for IoU threshold t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import box_of, iou_or_share, jit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import BoolArray, FloatArray, IntArray


@jit("i8[::1](i8[::1], i8[::1], i8)")
def rank_in_image(class_offsets: IntArray, image: IntArray, num_images: int) -> IntArray:
    """(D,) how many earlier detections share the image and class; rows sorted by class."""
    rank = np.empty(len(image), np.int64)
    seen = np.zeros(num_images, np.int64)
    last_class = np.full(num_images, -1, np.int64)
    for label in range(len(class_offsets) - 1):
        for row in range(class_offsets[label], class_offsets[label + 1]):
            if last_class[image[row]] != label:
                last_class[image[row]] = label
                seen[image[row]] = 0
            rank[row] = seen[image[row]]
            seen[image[row]] += 1
    return rank


@jit("i8[:, ::1](i8[::1], i8[::1], i8[::1], i8[::1], i8)")
def objects_of(
    class_offsets: IntArray,
    image: IntArray,
    object_class_offsets: IntArray,
    object_image: IntArray,
    num_images: int,
) -> IntArray:
    """(D, 2) first and last + 1 of the objects of each detection's class and image.

    Detections are sorted by class, objects by (class, image).
    """
    result = np.zeros((len(image), 2), np.int64)
    here = np.zeros((num_images, 2), np.int64)
    for label in range(len(class_offsets) - 1):
        first, last = object_class_offsets[label], object_class_offsets[label + 1]
        for index in range(first, last):
            if index == first or object_image[index] != object_image[index - 1]:
                here[object_image[index], 0] = index
            here[object_image[index], 1] = index + 1
        for row in range(class_offsets[label], class_offsets[label + 1]):
            result[row] = here[image[row]]
        for index in range(first, last):
            here[object_image[index]] = 0
    return result


@jit("f8(f8[::1], f8[:, ::1], b1[::1], f8[::1])")
def _overlap(box: FloatArray, objects: FloatArray, crowd: BoolArray, iou: FloatArray) -> float:
    """Fill iou (G,) between one box and G objects, all xywh; return the largest.

    For a crowd region the denominator is the area of the detection alone.
    """
    detected = box_of(box)
    best = 0.0
    for index in range(len(objects)):
        iou[index] = iou_or_share(detected, box_of(objects[index]), crowd[index])
        best = max(best, iou[index])
    return best


@jit("i8(f8[::1], f8, b1[::1], b1[::1], b1)")
def _choose(
    iou: FloatArray, threshold: float, free: BoolArray, ignored: BoolArray, flag: bool
) -> int:
    """The free object with this ignore flag and the largest IoU (the last of equals), or -1."""
    chosen = -1
    best = threshold
    for index in range(len(free)):
        if ignored[index] == flag and free[index] and iou[index] >= best:
            best = iou[index]
            chosen = index
    return chosen


@jit(
    "void(f8[:, ::1], b1[:, ::1], i8[:, ::1], f8[:, ::1], b1[::1], b1[:, ::1], f8[::1],"
    " u2[:, ::1], u2[:, ::1], i4[:, ::1])"
)
def match_kernel(
    boxes: FloatArray,
    outside: BoolArray,
    objects: IntArray,
    object_boxes: FloatArray,
    crowd: BoolArray,
    object_ignored: BoolArray,
    iou_thresholds: FloatArray,
    true_positive: NDArray[np.uint16],
    ignored: NDArray[np.uint16],
    matched_object: NDArray[np.int32],
) -> None:
    """Match D detections, sorted by score at least within their class and image.

    boxes (D, 4) and object_boxes (G, 4) are xywh; outside (D, A): the detection's area lies
    outside of the range; objects (D, 2) from `objects_of`; object_ignored (A, G); thresholds
    ascend.
    Fills true_positive (D, A), ignored (D, A) and matched_object (D, T), which come as 0, 0, -1.
    """
    num_areas, num_thresholds = true_positive.shape[1], len(iou_thresholds)
    free = np.ones((num_areas, num_thresholds, len(crowd)), np.bool_)
    iou = np.empty(len(crowd))
    for row in range(len(boxes)):
        first, last = objects[row]
        near = object_boxes[first:last]
        best = _overlap(boxes[row], near, crowd[first:last], iou)
        for area in range(num_areas):
            if outside[row, area]:
                ignored[row, area] = (1 << num_thresholds) - 1
            for t in range(num_thresholds):
                if best < iou_thresholds[t]:
                    break
                available, flags = free[area, t, first:last], object_ignored[area, first:last]
                chosen = _choose(iou, iou_thresholds[t], available, flags, False)
                if chosen >= 0:
                    true_positive[row, area] |= 1 << t
                    ignored[row, area] &= ~(1 << t)
                else:  # an ignored object is second choice, whatever its IoU
                    chosen = _choose(iou, iou_thresholds[t], available, flags, True)
                    if chosen < 0:
                        continue
                    ignored[row, area] |= 1 << t
                free[area, t, first + chosen] = crowd[first + chosen]
                if area == 0:
                    matched_object[row, t] = first + chosen


@jit("i8[:, ::1](i8[::1], u2[::1], i8[::1], i8, i8)")
def count_true_positives(
    class_offsets: IntArray,
    true_positive: NDArray[np.uint16],
    rank: IntArray,
    max_per_image: int,
    num_thresholds: int,
) -> IntArray:
    """(K, T) objects found by the first `max_per_image` detections per image and class."""
    counts = np.zeros((len(class_offsets) - 1, num_thresholds), np.int64)
    for label in range(len(class_offsets) - 1):
        for row in range(class_offsets[label], class_offsets[label + 1]):
            bits = true_positive[row]
            if bits == 0 or rank[row] >= max_per_image:
                continue
            for bit in range(num_thresholds):
                counts[label, bit] += (bits >> bit) & 1
    return counts


@jit("f8(f8[::1], i8, i8, f8[::1])")
def _mean_interpolated_precision(
    precision: FloatArray, num_found: int, num_objects: int, recall_thresholds: FloatArray
) -> float:
    """Mean over recall thresholds of the best precision at that recall or a higher one.

    precision[c] is the precision where object c + 1 is found. Precision only falls between two
    finds, so the maximum over the finds is the maximum over all detections.
    """
    for index in range(num_found - 1, 0, -1):
        precision[index - 1] = max(precision[index - 1], precision[index])
    total = 0.0
    found = 1
    for threshold in recall_thresholds:
        while found <= num_found and found / num_objects < threshold:
            found += 1
        if found > num_found:
            break
        total += precision[found - 1]
    return total / len(recall_thresholds)


@jit("f8[:, ::1](i8[::1], u2[::1], u2[::1], i8[::1], f8[::1], i8)")
def average_precision(
    class_offsets: IntArray,
    true_positive: NDArray[np.uint16],
    ignored: NDArray[np.uint16],
    num_objects: IntArray,
    recall_thresholds: FloatArray,
    num_thresholds: int,
) -> FloatArray:
    """(K, T) average precision in one area range; NaN for a class without objects."""
    result = np.full((len(num_objects), num_thresholds), np.nan)
    precision = np.empty((num_thresholds, num_objects.max() if len(num_objects) else 0))
    everything = np.uint16((1 << num_thresholds) - 1)
    for label in range(len(num_objects)):
        if num_objects[label] == 0:
            continue
        found, false = np.zeros(num_thresholds, np.int64), np.zeros(num_thresholds, np.int64)
        false_at_all = 0  # wrong at every threshold, the most frequent case by far
        for row in range(class_offsets[label], class_offsets[label + 1]):
            if true_positive[row] | ignored[row] == 0:
                false_at_all += 1
                continue
            if ignored[row] == everything:
                continue
            for bit in range(num_thresholds):
                if (true_positive[row] >> bit) & 1:
                    found[bit] += 1
                    # The tiny number is pycocotools': exact equality needs it.
                    seen = false[bit] + false_at_all + found[bit] + np.finfo(np.float64).eps
                    precision[bit, found[bit] - 1] = found[bit] / seen
                elif not (ignored[row] >> bit) & 1:
                    false[bit] += 1
        for bit in range(num_thresholds):
            result[label, bit] = _mean_interpolated_precision(
                precision[bit], found[bit], num_objects[label], recall_thresholds
            )
    return result
