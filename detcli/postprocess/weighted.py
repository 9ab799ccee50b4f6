"""Clusters of boxes around the best one, merged into a mean box: Weighted-NMS and NMW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from detcli.postprocess.ensemble import fusible, model_weights, weighted_scores
from detcli.postprocess.ranking import rank, result
from detcli.types import Detections

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


def weighted(
    candidates: Detections,
    *,
    iou_threshold: float,
    class_agnostic: bool,
    max_per_image: int,
    metric: Literal["iou", "diou"],
) -> Detections:
    """nms, but a kept box becomes the mean of itself and the boxes that it removes.

    The weight of a box is its score times its IoU with the kept one, whose score, label and extra
    columns stay; a negative score weighs nothing. metric as in nms; it decides which boxes are
    removed. Weighted-NMS, Ning, Zhou, Song and Tang, ICME Workshops 2017.
    """
    ranked = rank(candidates, candidates.scores, class_agnostic=class_agnostic)
    leaders, boxes, highest = clusters(
        candidates, candidates.scores, ranked, iou_threshold, metric=metric
    )
    return result(candidates, leaders, highest, max_per_image, boxes)


def clusters(
    candidates: Detections,
    scores: FloatArray,
    ranked: tuple[IntArray, IntArray],
    iou_threshold: float,
    *,
    metric: str = "iou",
    to_best: bool = False,
) -> tuple[IntArray, FloatArray, FloatArray]:
    """What `cluster_kernel` returns; ranked: the rows and groups of `rank`."""
    from detcli.jit import as_kernel_input
    from detcli.postprocess.kernels.cluster import cluster_kernel

    return cluster_kernel(
        as_kernel_input(candidates.boxes_xywh, np.float64),
        as_kernel_input(scores, np.float64),
        *ranked,
        iou_threshold,
        metric == "diou",
        to_best,
    )


def nmw(
    candidates: Detections,
    *,
    iou_threshold: float,
    class_agnostic: bool,
    max_per_image: int,
    weights: Sequence[float] | None = None,
    skip_box_threshold: float,
) -> Detections:
    """Non-maximum weighted: as weighted, but a box joins the kept box that it overlaps most.

    Equal to ensemble-boxes' non_maximum_weighted but for its float32 sums: scores are multiplied
    by weight / largest weight of their model (column `model`); boxes without area, and those
    whose own score is below `skip_box_threshold`, take no part.
    Raises UsageError unless there is one weight per model. Zhou, Li, Ning and Tang, ICCV
    Workshops 2017.
    """
    per_model = model_weights(candidates, weights)
    scores = weighted_scores(candidates, per_model / per_model.max())
    rows, groups = rank(candidates, scores, class_agnostic=class_agnostic)
    ranked = fusible(candidates, rows, groups, skip_box_threshold)
    leaders, boxes, highest = clusters(candidates, scores, ranked, iou_threshold, to_best=True)
    return result(candidates, leaders, highest, max_per_image, boxes)
