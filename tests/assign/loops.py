"""The assignment rules as plain loops over priors and boxes, written from the papers.

They know nothing of grids, work in float32 one number at a time, and are slow.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detcli.ops.priors import Priors

F = np.float32


def iou_of(a: np.ndarray, b: np.ndarray) -> np.float32:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), F(0))
    height = max(min(a[3], b[3]) - max(a[1], b[1]), F(0))
    common = width * height
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return common / max(area_a + area_b - common, F(1e-6))


def max_iou(priors: Priors, boxes: Tensor, positive: float, negative: float, lowest: float):
    anchors, objects = priors.boxes.numpy(), boxes.numpy()
    matched = []
    for anchor in anchors:
        ious = [iou_of(box, anchor) for box in objects]
        best = max(ious, default=F(0))
        if objects.shape[0] == 0 or best < F(negative):
            matched.append(-1)
        elif best >= F(positive):
            matched.append(ious.index(best))
        else:
            matched.append(-2)
    for number, box in enumerate(objects):
        ious = [iou_of(box, anchor) for anchor in anchors]
        best = max(ious, default=F(0))
        if best > 0 and best >= F(lowest):
            for index, iou in enumerate(ious):
                if iou == best:
                    matched[index] = number
    return torch.tensor(matched, dtype=torch.int64)


def atss_candidates(priors: Priors, box: np.ndarray, topk: int, anchors: int) -> list[int]:
    """Priors of the topk nearest cells per level, `anchors` of which lie side by side in a cell."""
    middle_x, middle_y = (box[0] + box[2]) / F(2), (box[1] + box[3]) / F(2)
    found, start = [], 0
    for size in priors.level_sizes:
        cells = []
        for first in range(start, start + size, anchors):
            x, y = priors.centers[first].numpy()
            cells.append(((x - middle_x) ** 2 + (y - middle_y) ** 2, first))
        for _, first in sorted(cells)[:topk]:
            found += range(first, first + anchors)
        start += size
    return found


def atss(priors: Priors, boxes: Tensor, topk: int, anchors: int) -> tuple[Tensor, float]:
    """The assignment, and how near an IoU comes to a threshold that it does not equal."""
    matched = [-1] * len(priors)
    best = [F(-1)] * len(priors)
    margin = np.inf
    for number, box in enumerate(boxes.numpy()):
        chosen = atss_candidates(priors, box, topk, anchors)
        if not chosen:
            continue
        ious = [iou_of(box, priors.boxes[index].numpy()) for index in chosen]
        spread = np.std(np.float64(ious), ddof=1) if len(ious) > 1 else 0.0
        threshold = np.mean(np.float64(ious)) + spread
        if spread > 0:
            margin = min(margin, *(abs(float(iou) - threshold) for iou in ious))
        for index, iou in zip(chosen, ious, strict=True):
            x, y = priors.centers[index].numpy()
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > F(0.01)
            if inside and iou >= threshold and iou > best[index]:
                best[index], matched[index] = iou, number
    return torch.tensor(matched, dtype=torch.int64), margin


def fcos(priors: Priors, boxes: Tensor, center_radius: float | None) -> Tensor:
    levels = np.repeat(np.arange(len(priors.level_sizes)), priors.level_sizes)
    last = len(priors.level_sizes) - 1
    matched = []
    for level, (x, y), stride in zip(
        levels, priors.centers.numpy(), priors.strides.numpy(), strict=True
    ):
        low = 0 if level == 0 else 4 * stride
        high = np.inf if level == last else 8 * stride
        winner, smallest = -1, np.inf
        for number, (x1, y1, x2, y2) in enumerate(boxes.numpy()):
            left, top, right, bottom = x1, y1, x2, y2
            if center_radius is not None:
                radius = stride * F(center_radius)
                left = max(x1, (x1 + x2) / F(2) - radius)
                top = max(y1, (y1 + y2) / F(2) - radius)
                right = min(x2, (x1 + x2) / F(2) + radius)
                bottom = min(y2, (y1 + y2) / F(2) + radius)
            inside = left < x < right and top < y < bottom
            farthest = max(x - x1, y - y1, x2 - x, y2 - y)
            area = (x2 - x1) * (y2 - y1)
            if inside and low <= farthest <= high and area < smallest:
                winner, smallest = number, area
        matched.append(winner)
    return torch.tensor(matched, dtype=torch.int64)
