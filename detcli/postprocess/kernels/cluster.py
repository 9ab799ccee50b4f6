"""The compiled part of weighted, nmw and iou_guided: boxes join a better one and are merged.
Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import box_of, centre_penalty, jit, longest, shared_area

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


@jit("Tuple((i8, f8))(f8[:, ::1], i8, f8, b1, b1)")
def _find_leader(
    leads: FloatArray, num_leads: int, threshold: float, diou: bool, to_best: bool
) -> tuple[int, float]:
    """The leader that a box joins, -1 for none, and their IoU.

    leads (C, 5): corners and area of the leaders and, at `num_leads`, of the box.
    """
    box = leads[num_leads]
    chosen, chosen_iou, best = -1, 0.0, threshold
    for lead in range(num_leads):
        shared = shared_area(box, leads[lead])
        union = leads[lead, 4] + box[4] - shared
        if shared <= 0.999 * best * union:
            continue  # without a division: far from being the best
        iou = shared / union
        overlap = iou
        if iou > best and diou:
            overlap -= centre_penalty(box, leads[lead])
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
    most = longest(groups)
    leads, weights = np.empty((most + 1, 5)), np.empty(most)  # of the group in hand
    leaders, highest = np.empty(len(rows), np.int64), np.empty(len(rows))
    boxes = np.empty((len(rows), 4))
    total = 0
    for index in range(len(groups) - 1):
        num_leads = 0
        for row in rows[groups[index] : groups[index + 1]]:
            leads[num_leads] = box_of(boxes_xywh[row])
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
