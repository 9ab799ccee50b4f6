"""The compiled parts of soft and matrix, which lower scores. Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detcli.jit import box_iou, box_of, centre_penalty, inlined, jit, longest

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


@inlined
def _overlap(one: Any, other: Any, diou: bool) -> Any:
    """IoU of two boxes, or IoU minus the centre-distance penalty, at least 0."""
    iou = box_iou(one, other)
    return max(0.0, iou - centre_penalty(one, other)) if diou and iou > 0.0 else iou


@inlined
def _load(boxes_xywh: Any, rows: Any, boxes: Any) -> None:
    """Fill in corners and area of these rows."""
    for i in range(len(rows)):
        boxes[i] = box_of(boxes_xywh[rows[i]])


@jit("Tuple((i8, i8))(f8[:, ::1], i8[::1], f8[::1], i8, i8, f8, b1, f8, f8, b1)")
def _take_and_lower(
    boxes: FloatArray,
    alive: IntArray,
    lowered: FloatArray,
    num_alive: int,
    best: int,
    threshold: float,
    gaussian: bool,
    sigma: float,
    score_threshold: float,
    diou: bool,
) -> tuple[int, int]:
    """Take the box alive[best] away, lower the others, and close the gaps, in one pass.

    Returns how many are left and where the next best one is, the first of equals.
    """
    top = alive[best]
    left, next_best = 0, 0
    for i in range(num_alive):
        if i == best:
            continue
        score = lowered[i]
        overlap = _overlap(boxes[top], boxes[alive[i]], diou)
        if overlap > threshold:
            score *= np.exp(-overlap * overlap / sigma) if gaussian else 1.0 - overlap
        if score > score_threshold:
            alive[left], lowered[left] = alive[i], score
            if score > lowered[next_best]:
                next_best = left
            left += 1
    return left, next_best


@jit(
    "Tuple((i8[::1], f8[::1]))(f8[:, ::1], f8[::1], f8[::1], i8[::1], i8[::1], b1, f8, f8, b1, i8)"
)
def soft_kernel(
    boxes_xywh: FloatArray,
    scores: FloatArray,
    thresholds: FloatArray,
    rows: IntArray,
    groups: IntArray,
    gaussian: bool,
    sigma: float,
    score_threshold: float,
    diou: bool,
    max_per_group: int,
) -> tuple[IntArray, FloatArray]:
    """Rows taken and their scores then; groups are in input order.

    Scores only fall, so a box at or below the threshold can be forgotten at once, and a group
    can be left after `max_per_group` boxes.
    """
    most = longest(groups)
    boxes = np.empty((most, 5))
    alive, lowered = np.empty(most, np.int64), np.empty(most)  # alive: places in the group
    taken, taken_scores = np.empty(len(rows), np.int64), np.empty(len(rows))
    total = 0
    for index in range(len(groups) - 1):
        members = rows[groups[index] : groups[index + 1]]
        _load(boxes_xywh, members, boxes)
        num_alive, best = 0, 0
        for i in range(len(members)):
            score = scores[members[i]]
            if score > score_threshold:
                alive[num_alive], lowered[num_alive] = i, score
                if score > lowered[best]:
                    best = num_alive
                num_alive += 1
        limit = total + max_per_group
        while num_alive > 0 and total < limit:
            row = members[alive[best]]
            taken[total], taken_scores[total] = row, lowered[best]
            total += 1
            num_alive, best = _take_and_lower(
                boxes,
                alive,
                lowered,
                num_alive,
                best,
                thresholds[row],
                gaussian,
                sigma,
                score_threshold,
                diou,
            )
    return taken[:total], taken_scores[:total]


@jit("Tuple((i8[::1], f8[::1]))(f8[:, ::1], f8[::1], i8[::1], i8[::1], b1, f8, f8, b1)")
def matrix_kernel(
    boxes_xywh: FloatArray,
    scores: FloatArray,
    rows: IntArray,
    groups: IntArray,
    gaussian: bool,
    sigma: float,
    score_threshold: float,
    diou: bool,
) -> tuple[IntArray, FloatArray]:
    """Rows whose lowered score is above the threshold, and these scores; groups are in order of
    rank.

    A quotient of two gaussians is a gaussian of the difference, so one per box is enough.
    """
    most = longest(groups)
    boxes = np.empty((most, 5))
    largest = np.empty(most)  # of the overlaps of each box with better ones
    kept, lowered = np.empty(len(rows), np.int64), np.empty(len(rows))
    total = 0
    for index in range(len(groups) - 1):
        members = rows[groups[index] : groups[index + 1]]
        _load(boxes_xywh, members, boxes)
        for low in range(len(members)):
            if scores[members[low]] <= score_threshold:
                break
            largest[low], decay, excess = 0.0, 1.0, 0.0
            for high in range(low):
                overlap = _overlap(boxes[high], boxes[low], diou)
                if overlap > 0.0:
                    largest[low] = max(largest[low], overlap)
                    excess = max(excess, overlap * overlap - largest[high] * largest[high])
                    if largest[high] < 1.0:
                        decay = min(decay, (1.0 - overlap) / (1.0 - largest[high]))
            if gaussian:
                decay = np.exp(-excess / sigma)
            score = scores[members[low]] * decay
            if score > score_threshold:
                kept[total], lowered[total] = members[low], score
                total += 1
    return kept[:total], lowered[:total]
