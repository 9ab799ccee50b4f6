"""The compiled part of softer. Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import box_iou, box_of, jit

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


@jit("f8[:, ::1](f8[:, ::1], f8[:, ::1], i8[::1], i8[::1], i8[::1], i8[::1], f8)")
def vote_kernel(
    boxes_xywh: FloatArray,
    deviations: FloatArray,
    rows: IntArray,
    groups: IntArray,
    elected: IntArray,
    group_of: IntArray,
    sigma_t: float,
) -> FloatArray:
    """(K, 4) xywh of the rows `elected` (K,) after the vote of their groups `group_of` (K,).

    deviations (N, 4): standard deviation of left, top, right and bottom.
    """
    voted = np.empty((len(elected), 4))
    for index in range(len(elected)):
        top, group = elected[index], group_of[index]
        best = box_of(boxes_xywh[top])
        weights, sums = np.zeros(4), np.zeros(4)
        for row in rows[groups[group] : groups[group + 1]]:
            box = box_of(boxes_xywh[row])
            iou = box_iou(best, box)
            if iou > 0.0:
                closeness = np.exp(-(1.0 - iou) * (1.0 - iou) / sigma_t)
                for side in range(4):
                    weight = closeness / (deviations[row, side] * deviations[row, side])
                    weights[side] += weight
                    sums[side] += weight * box[side]
        # A box without area overlaps with nothing, itself included: it stays.
        voted[index] = boxes_xywh[top]
        if weights[0] > 0.0:
            voted[index] = sums / weights
            voted[index, 2:] -= voted[index, :2]
    return voted
