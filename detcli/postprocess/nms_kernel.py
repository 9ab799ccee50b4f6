"""The compiled part of nms. Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.kernels import jit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import FloatArray, IntArray


@jit("b1(f4[:, ::1], i8, i8, f8)")
def _overlaps(corners: NDArray[np.float32], high: int, low: int, iou_threshold: float) -> bool:
    """IoU of two boxes above the threshold; corners (N, 5) are x1, y1, x2, y2, area."""
    zero = np.float32(0.0)
    left, top = max(corners[high, 0], corners[low, 0]), max(corners[high, 1], corners[low, 1])
    right, bottom = min(corners[high, 2], corners[low, 2]), min(corners[high, 3], corners[low, 3])
    width, height = max(zero, right - left), max(zero, bottom - top)
    if width * height == zero:
        return False
    shared = width * height
    iou = shared / (corners[high, 4] + corners[low, 4] - shared)
    return bool(np.float64(iou) > iou_threshold)


@jit("Tuple((i8[::1], i8[::1]))(f8[:, ::1], i8[::1], i8[::1], i8[::1], f8, i8)")
def nms_kernel(
    boxes_xywh: FloatArray,
    labels: IntArray,
    order: IntArray,
    offsets: IntArray,
    iou_threshold: float,
    max_per_image: int,
) -> tuple[IntArray, IntArray]:
    """Rows kept, in the order of `order`, and their offsets by image."""
    num_images = len(offsets) - 1
    limit = 0
    for image in range(num_images):
        limit = max(limit, min(max_per_image, offsets[image + 1] - offsets[image]))
    # The kept boxes of one image, chained by class from the latest to the first.
    corners = np.empty((limit + 1, 5), np.float32)
    previous = np.empty(limit, np.int64)
    latest = np.full(labels.max() + 1 if len(labels) else 0, -1, np.int64)

    kept_rows = np.empty(min(len(order), num_images * limit), np.int64)
    kept_offsets = np.zeros(num_images + 1, np.int64)
    total = 0
    for image in range(num_images):
        kept = 0
        for row in order[offsets[image] : offsets[image + 1]]:
            x, y, width, height = boxes_xywh[row]
            x1, y1 = np.float32(x), np.float32(y)
            x2, y2 = np.float32(x + width), np.float32(y + height)
            corners[kept] = (x1, y1, x2, y2, (x2 - x1) * (y2 - y1))
            other = latest[labels[row]]
            while other >= 0 and not _overlaps(corners, other, kept, iou_threshold):
                other = previous[other]
            if other >= 0:
                continue
            previous[kept] = latest[labels[row]]
            latest[labels[row]] = kept
            kept_rows[total + kept] = row
            kept += 1
            if kept == max_per_image:
                break
        for row in kept_rows[total : total + kept]:
            latest[labels[row]] = -1
        total += kept
        kept_offsets[image + 1] = total
    return kept_rows[:total].copy(), kept_offsets
