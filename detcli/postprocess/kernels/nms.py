"""The compiled part of nms. Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import centre_penalty, jit, longest, shared_area

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import FloatArray, IntArray


@jit("b1(f4[:, ::1], i8, i8, f8, b1)")
def _overlaps(
    corners: NDArray[np.float32], high: int, low: int, threshold: float, diou: bool
) -> bool:
    """Metric of two boxes above the threshold; corners (N, 5) are x1, y1, x2, y2, area."""
    shared = np.float32(shared_area(corners[high], corners[low]))
    if shared == np.float32(0.0):
        return False
    metric = np.float64(shared / (corners[high, 4] + corners[low, 4] - shared))
    if metric > threshold and diou:
        metric -= centre_penalty(corners[high], corners[low])
    return bool(metric > threshold)


@jit("i8[::1](f8[:, ::1], i8[::1], i8[::1], f8[::1], b1, i8)")
def nms_kernel(
    boxes_xywh: FloatArray,
    rows: IntArray,
    groups: IntArray,
    thresholds: FloatArray,
    diou: bool,
    max_per_group: int,
) -> IntArray:
    """Rows kept; `rows` are in order of rank within each group.

    thresholds (N,) by row: what a kept box tolerates of its overlap with a lower one.
    """
    limit = min(max_per_group, longest(groups))
    corners = np.empty((limit + 1, 5), np.float32)  # of the boxes kept in the group in hand
    tolerated = np.empty(limit + 1)
    kept_rows = np.empty(len(rows), np.int64)
    total = 0
    for index in range(len(groups) - 1):
        num_kept = 0
        for row in rows[groups[index] : groups[index + 1]]:
            x, y, width, height = boxes_xywh[row]
            x1, y1 = np.float32(x), np.float32(y)
            x2, y2 = np.float32(x + width), np.float32(y + height)
            corners[num_kept] = (x1, y1, x2, y2, (x2 - x1) * (y2 - y1))
            other = 0
            while other < num_kept and not _overlaps(
                corners, other, num_kept, tolerated[other], diou
            ):
                other += 1
            if other < num_kept:
                continue
            tolerated[num_kept] = thresholds[row]
            kept_rows[total + num_kept] = row
            num_kept += 1
            if num_kept == max_per_group:
                break
        total += num_kept
    kept: IntArray = kept_rows[:total].copy()
    return kept
