"""Softer-NMS: surviving boxes are moved by a vote of all boxes that they overlap."""

from __future__ import annotations

from typing import Literal

import numpy as np

from detcli.postprocess.ranking import best_rows, group, result
from detcli.postprocess.soft import survivors
from detcli.types import Detections


def softer(
    candidates: Detections,
    *,
    iou_threshold: float,
    class_agnostic: bool,
    max_per_image: int,
    kind: Literal["gaussian", "linear", "hard"],
    sigma: float,
    score_threshold: float,
    sigma_t: float,
    metric: Literal["iou", "diou"],
) -> Detections:
    """Suppress as soft or (kind hard) as nms does, then replace each side of a survivor by the
    mean of that side over all candidates that overlap with it, the survivor included.

    A side weighs exp(-(1 - IoU)^2 / sigma_t) / variance; the variances are those of the column
    `sigma`, while the option `sigma` belongs to kind gaussian. Every candidate of the image (and
    class) votes with its box as it was, suppressed or not. `score_threshold` does not apply to
    kind hard, nor `iou_threshold` to gaussian. metric as in nms; the vote goes by IoU.
    Variance voting, He et al., CVPR 2019.
    """
    from detcli.jit import as_kernel_input
    from detcli.postprocess.kernels.vote import vote_kernel

    threshold = 0.0 if kind == "gaussian" else iou_threshold
    thresholds = np.full(len(candidates.scores), float(threshold))
    kept, scores = survivors(
        candidates, thresholds, class_agnostic, max_per_image, kind, sigma, score_threshold, metric
    )
    best, _ = best_rows(candidates, kept, scores, max_per_image)
    kept, scores = kept[best], scores[best]
    rows, groups = group(candidates, class_agnostic=class_agnostic)
    position = np.empty_like(rows)
    position[rows] = np.arange(len(rows))
    voted = vote_kernel(
        as_kernel_input(candidates.boxes_xywh, np.float64),
        as_kernel_input(candidates.extra["sigma"], np.float64),
        rows,
        groups,
        kept,
        np.searchsorted(groups, position[kept], side="right") - 1,
        sigma_t,
    )
    return result(candidates, kept, scores, max_per_image, voted)
