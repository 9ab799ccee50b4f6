"""The compiled part of wbf. Importing it compiles or loads it.

Letters: N boxes, M models, C clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import box_of, jit, longest, shared_area

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


@jit("i8(f8[:, ::1], i8, f8)")
def _find_cluster(clusters: FloatArray, num_clusters: int, threshold: float) -> int:
    """The cluster with the largest IoU above the threshold, the first of equals; -1: none.

    clusters (C, 5): corners and area of the mean boxes and, at `num_clusters`, of the new box.
    """
    box = clusters[num_clusters]
    best, highest = -1, threshold
    for cluster in range(num_clusters):
        shared = shared_area(box, clusters[cluster])
        union = clusters[cluster, 4] + box[4] - shared
        if shared <= 0.999 * highest * union:
            continue  # without a division: far from being the best
        iou = shared / union
        if iou > highest:
            best, highest = cluster, iou
    return best


@jit("void(f8[:, ::1], i8, i8, f8, f8, b1, f8[:, ::1], f8[:, ::1])")
def _join(
    boxes_xywh: FloatArray,
    row: int,
    cluster: int,
    score: float,
    weight: float,
    is_new_model: bool,
    boxes: FloatArray,
    facts: FloatArray,
) -> None:
    """Count a box in and move the mean box; the first box of a cluster stays exactly as it is."""
    facts[cluster, 0] += score
    facts[cluster, 1] += 1.0
    facts[cluster, 2] += weight
    if is_new_model:
        facts[cluster, 3] += weight
    if facts[cluster, 0] > 0.0:
        share = score / facts[cluster, 0]
        for i in range(4):
            boxes[cluster, i] += share * (boxes_xywh[row, i] - boxes[cluster, i])


@jit(
    "Tuple((i8[::1], f8[:, ::1], f8[:, ::1]))"
    "(f8[:, ::1], f8[::1], i8[::1], f8[::1], i8[::1], i8[::1], f8)"
)
def wbf_kernel(
    boxes_xywh: FloatArray,
    scores: FloatArray,
    models: IntArray,
    model_weights: FloatArray,
    rows: IntArray,
    groups: IntArray,
    threshold: float,
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Clusters of boxes in order of rank, scores being at least 0.

    Returns the row of each cluster's first box (C,), its box (C, 4) xywh, the mean of its boxes
    weighted with their scores, and (C, 4): sum of its scores, number of its boxes, sum of the
    weights of its boxes, sum of the weights of the models that take part.
    """
    most = longest(groups)
    clusters = np.empty((most + 1, 5))  # of the group in hand
    takes_part = np.empty((most, len(model_weights)), np.bool_)
    first_row = np.empty(len(rows), np.int64)
    boxes, facts = np.empty((len(rows), 4)), np.zeros((len(rows), 4))
    total = 0
    for index in range(len(groups) - 1):
        num_clusters = 0
        for row in rows[groups[index] : groups[index + 1]]:
            clusters[num_clusters] = box_of(boxes_xywh[row])
            cluster = _find_cluster(clusters, num_clusters, threshold)
            if cluster < 0:
                cluster = num_clusters
                num_clusters += 1
                first_row[total + cluster] = row
                boxes[total + cluster] = boxes_xywh[row]
                takes_part[cluster] = False
            model = models[row]
            weight, is_new_model = model_weights[model], not takes_part[cluster, model]
            takes_part[cluster, model] = True
            here = total + cluster
            _join(boxes_xywh, row, here, scores[row], weight, is_new_model, boxes, facts)
            clusters[cluster] = box_of(boxes[here])
        total += num_clusters
    return first_row[:total], boxes[:total], facts[:total]
