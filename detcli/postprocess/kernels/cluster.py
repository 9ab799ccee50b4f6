"""The compiled part of weighted, nmw and iou_guided: boxes join a better one and are merged.
Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import jit

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


@jit("f8(f8[:, ::1], i8, f8, f8, f8, f8)")
def _centre_penalty(
    leads: FloatArray, lead: int, x1: float, y1: float, x2: float, y2: float
) -> float:
    """Squared distance of two centres over the squared diagonal of the enclosing box."""
    across = x1 + x2 - leads[lead, 0] - leads[lead, 2]
    down = y1 + y2 - leads[lead, 1] - leads[lead, 3]
    width = max(x2, leads[lead, 2]) - min(x1, leads[lead, 0])
    height = max(y2, leads[lead, 3]) - min(y1, leads[lead, 1])
    return float((across * across + down * down) / (4.0 * (width * width + height * height)))


@jit("Tuple((i8, f8))(f8[:, ::1], i8, f8, b1, b1)")
def _find_leader(
    leads: FloatArray, num_leads: int, threshold: float, diou: bool, to_best: bool
) -> tuple[int, float]:
    """The leader that a box joins, -1 for none, and their IoU.

    leads (C, 5): corners and area of the leaders and, at `num_leads`, of the box.
    """
    x1, y1, x2, y2, area = leads[num_leads]
    chosen, chosen_iou, best = -1, 0.0, threshold
    for lead in range(num_leads):
        width = max(0.0, min(x2, leads[lead, 2]) - max(x1, leads[lead, 0]))
        height = max(0.0, min(y2, leads[lead, 3]) - max(y1, leads[lead, 1]))
        shared = width * height
        union = leads[lead, 4] + area - shared
        if shared <= 0.999 * best * union:
            continue  # without a division: far from being the best
        iou = shared / union
        overlap = iou
        if iou > best and diou:
            overlap -= _centre_penalty(leads, lead, x1, y1, x2, y2)
        if overlap > best:
            chosen, chosen_iou, best = lead, iou, overlap
            if not to_best:
                break
    return chosen, chosen_iou


@jit("Tuple((i8[::1], f8[:, ::1], f8[::1]))(f8[:, ::1], f8[::1], i8[::1], i8[::1], f8, b1, b1)")
def cluster_kernel(
    boxes_xywh: FloatArray,
    scores: FloatArray,
    rows: IntArray,
    groups: IntArray,
    threshold: float,
    diou: bool,
    to_best: bool,
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Boxes in order of rank join a leader above the threshold: the first one or, `to_best`, the
    one with the largest overlap, the first of equals; a box without such a leader leads.

    Returns the rows of the C leaders, (C, 4) xywh: the mean of the boxes of each, weighted with
    score x IoU with the leader, and (C,) their highest score. Negative scores weigh nothing; a
    leader that no other box moves stays exactly as it is.
    """
    longest = 0
    for index in range(len(groups) - 1):
        longest = max(longest, groups[index + 1] - groups[index])
    leads, weights = np.empty((longest + 1, 5)), np.empty(longest)  # of the group in hand
    leaders, highest = np.empty(len(rows), np.int64), np.empty(len(rows))
    boxes = np.empty((len(rows), 4))
    total = 0
    for index in range(len(groups) - 1):
        num_leads = 0
        for row in rows[groups[index] : groups[index + 1]]:
            x, y, width, height = boxes_xywh[row]
            leads[num_leads] = (x, y, x + width, y + height, width * height)
            lead, iou = _find_leader(leads, num_leads, threshold, diou, to_best)
            weight = max(scores[row], 0.0)
            if lead < 0:
                weights[num_leads] = weight
                boxes[total + num_leads] = boxes_xywh[row]
                leaders[total + num_leads], highest[total + num_leads] = row, scores[row]
                num_leads += 1
                continue
            highest[total + lead] = max(highest[total + lead], scores[row])
            weight *= iou
            if weight > 0.0:
                weights[lead] += weight
                share = weight / weights[lead]
                for i in range(4):
                    moved = boxes_xywh[row, i] - boxes[total + lead, i]
                    boxes[total + lead, i] += share * moved
        total += num_leads
    return leaders[:total], boxes[:total], highest[:total]
