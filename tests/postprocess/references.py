"""Every method once more, slowly: written from the papers, one image and class at a time.

A reference takes corners (N, 4) and scores (N,) of one group, in input order, and returns a list
of (row, score, corners) in any order.
"""

from __future__ import annotations

import math

import numpy as np


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def diou(a, b):
    """IoU - d^2 / c^2: d the distance of the centres, c the diagonal of the enclosing box."""
    centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b)]
    diagonal = math.dist(np.minimum(a, b)[:2], np.maximum(a, b)[2:])
    return iou(a, b) - (math.dist(*centres) / diagonal) ** 2 if diagonal else iou(a, b)


METRICS = {"iou": iou, "diou": diou}


def by_rank(keys):
    return sorted(range(len(keys)), key=lambda row: (-keys[row], row))


def nms(boxes, scores, *, thresholds, metric="iou"):
    """`thresholds` of each row: one number for plain nms, the density for adaptive nms."""
    left, kept = by_rank(scores), []
    while left:
        top, *rest = left
        kept.append((top, scores[top], boxes[top]))
        left = [row for row in rest if METRICS[metric](boxes[top], boxes[row]) <= thresholds[top]]
    return kept


def soft(boxes, scores, *, thresholds, kind, sigma, score_threshold, metric="iou"):
    """Everything is lowered to the end, and only then held against the score threshold."""
    scores, left, taken = list(scores), list(range(len(scores))), []
    while left:
        top = min(left, key=lambda row: (-scores[row], row))
        left.remove(top)
        taken.append((top, scores[top], boxes[top]))
        for row in left:
            overlap = max(0.0, METRICS[metric](boxes[top], boxes[row]))
            if overlap > thresholds[top]:
                gaussian = math.exp(-(overlap**2) / sigma)
                scores[row] *= gaussian if kind == "gaussian" else 1 - overlap
    return [each for each in taken if each[1] > score_threshold]


def clusters(boxes, keys, *, threshold, metric="iou", to_best=False):
    """[leader, member, ...] of each cluster, the leader by the highest key."""
    found = []
    for row in by_rank(keys):
        overlaps = [METRICS[metric](boxes[cluster[0]], boxes[row]) for cluster in found]
        joins = [index for index, overlap in enumerate(overlaps) if overlap > threshold]
        if not joins:
            found.append([row])
        elif to_best:
            found[max(joins, key=lambda index: (overlaps[index], -index))].append(row)
        else:
            found[joins[0]].append(row)
    return found


def weighted(boxes, scores, *, threshold, metric="iou"):
    merged = []
    for cluster in clusters(boxes, scores, threshold=threshold, metric=metric):
        top = cluster[0]
        weights = [scores[row] * iou(boxes[top], boxes[row]) for row in cluster]
        box = np.average(boxes[cluster], axis=0, weights=weights) if sum(weights) else boxes[top]
        merged.append((top, scores[top], box))
    return merged


def iou_guided(boxes, scores, *, predicted, threshold, metric="iou"):
    return [
        (cluster[0], max(scores[row] for row in cluster), boxes[cluster[0]])
        for cluster in clusters(boxes, predicted, threshold=threshold, metric=metric)
    ]


def matrix(boxes, scores, *, kernel, sigma, score_threshold, metric="iou"):
    """As in the paper, with whole matrices."""
    order = by_rank(scores)
    overlap = np.zeros((len(order), len(order)))
    for j in range(len(order)):
        for i in range(j):
            overlap[i, j] = max(0.0, METRICS[metric](boxes[order[i]], boxes[order[j]]))
    largest = overlap.max(axis=0, initial=0)

    def f(values):
        return np.exp(-(values**2) / sigma) if kernel == "gaussian" else 1 - values

    lowered = []
    for j, row in enumerate(order):
        counted = [i for i in range(j) if f(largest[i]) > 0]
        decay = min((f(overlap[i, j]) / f(largest[i]) for i in counted), default=1.0)
        lowered.append((row, scores[row] * decay, boxes[row]))
    return [each for each in lowered if each[1] > score_threshold]


def vote(survivors, boxes, deviations, *, sigma_t):
    """Variance voting on what `nms` or `soft` returned."""
    voted = []
    for row, score, box in survivors:
        overlaps = np.array([iou(box, other) for other in boxes])
        voters = overlaps > 0
        closeness = np.exp(-((1 - overlaps[voters]) ** 2) / sigma_t)
        weights = closeness[:, None] / deviations[voters] ** 2
        moved = (weights * boxes[voters]).sum(0) / weights.sum(0) if voters.any() else box
        voted.append((row, score, moved))
    return voted
