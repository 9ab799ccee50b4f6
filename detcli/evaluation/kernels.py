"""The compiled parts of the evaluation. Importing this module compiles or loads them.

Letters: K classes, D detections, G objects, I images, T IoU thresholds, A area ranges,
R recall thresholds. Bit t of a `uint16` stands for IoU threshold t, bit a of a `uint8` for
area range a.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.kernels import jit

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


@jit("f8(f8[:, ::1], i8, f8[:, ::1], b1[::1], i8, i8, f8[::1])")
def _overlap_with_objects(
    boxes: FloatArray,
    row: int,
    object_boxes: FloatArray,
    crowd: BoolArray,
    first: int,
    last: int,
    iou: FloatArray,
) -> float:
    """Fill iou[:last - first] for one detection; return the largest. Boxes are xywh.

    For a crowd region the denominator is the area of the detection alone.
    """
    x, y, width, height = boxes[row]
    best = 0.0
    for index in range(first, last):
        iou[index - first] = 0.0
        gx, gy, gwidth, gheight = object_boxes[index]
        shared_width = min(width + x, gwidth + gx) - max(x, gx)
        shared_height = min(height + y, gheight + gy) - max(y, gy)
        if shared_width <= 0 or shared_height <= 0:
            continue
        shared = shared_width * shared_height
        area = width * height
        union = area if crowd[index] else area + gwidth * gheight - shared
        iou[index - first] = shared / union
        best = max(best, iou[index - first])
    return best


@jit("i8(f8[::1], i8, i8, f8, i8, u1[::1], b1[::1], u2[:, ::1], i8, i8)")
def _choose_object(
    iou: FloatArray,
    first: int,
    last: int,
    threshold: float,
    area: int,
    object_ignored: NDArray[np.uint8],
    crowd: BoolArray,
    taken: NDArray[np.uint16],
    bit: int,
    wanted_ignored: int,
) -> int:
    """The free object of largest IoU (the last among equals) with this ignore flag, or -1."""
    chosen = -1
    best = threshold
    for index in range(first, last):
        if (object_ignored[index] >> area) & 1 != wanted_ignored or iou[index - first] < best:
            continue
        if (taken[index, area] >> bit) & 1 and not crowd[index]:
            continue
        best = iou[index - first]
        chosen = index
    return chosen


@jit(
    "void(i8[::1], i8[::1], f8[:, ::1], u1[::1], i8[::1], i8[::1], f8[:, ::1], b1[::1], u1[::1],"
    " f8[::1], i8, u2[:, ::1], u2[:, ::1], i4[:, ::1])"
)
def match_kernel(
    class_offsets: IntArray,
    image: IntArray,
    boxes: FloatArray,
    outside: NDArray[np.uint8],
    object_class_offsets: IntArray,
    object_image: IntArray,
    object_boxes: FloatArray,
    crowd: BoolArray,
    object_ignored: NDArray[np.uint8],
    iou_thresholds: FloatArray,
    num_images: int,
    true_positive: NDArray[np.uint16],
    ignored: NDArray[np.uint16],
    matched_object: NDArray[np.int32],
) -> None:
    """Match in one pass over detections sorted by (class, score); objects by (class, image).

    Fills true_positive (D, A), ignored (D, A) and matched_object (D, T), which come as 0, 0, -1.
    Images do not influence each other, so the order of detections of other images is free.
    """
    num_areas, num_thresholds = true_positive.shape[1], len(iou_thresholds)
    first, last = np.zeros(num_images, np.int64), np.zeros(num_images, np.int64)
    taken = np.zeros((len(object_boxes), num_areas), np.uint16)
    iou = np.empty(len(object_boxes) + 1)
    for label in range(len(class_offsets) - 1):
        for index in range(object_class_offsets[label], object_class_offsets[label + 1]):
            if last[object_image[index]] == 0:
                first[object_image[index]] = index
            last[object_image[index]] = index + 1
        for row in range(class_offsets[label], class_offsets[label + 1]):
            start, stop = first[image[row]], last[image[row]]
            best = _overlap_with_objects(boxes, row, object_boxes, crowd, start, stop, iou)
            for area in range(num_areas):
                for bit in range(num_thresholds):
                    threshold = iou_thresholds[bit]
                    chosen, flag = -1, 0
                    # An ignored object is second choice, whatever its IoU.
                    while best >= threshold and chosen < 0 and flag < 2:
                        chosen = _choose_object(
                            iou, start, stop, threshold, area,
                            object_ignored, crowd, taken, bit, flag,
                        )  # fmt: skip
                        flag += 1
                    if chosen >= 0:
                        taken[chosen, area] |= np.uint16(1 << bit)
                        if area == 0:
                            matched_object[row, bit] = chosen
                    if chosen >= 0 and flag == 1:
                        true_positive[row, area] |= np.uint16(1 << bit)
                    elif chosen >= 0 or (outside[row] >> area) & 1:
                        ignored[row, area] |= np.uint16(1 << bit)
        for index in range(object_class_offsets[label], object_class_offsets[label + 1]):
            last[object_image[index]] = 0
            first[object_image[index]] = 0


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
