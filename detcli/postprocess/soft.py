"""Soft-NMS: overlapping boxes lose score instead of being removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from detcli.postprocess.nms import kept_rows
from detcli.postprocess.ranking import group, result
from detcli.types import Detections

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


def soft(
    candidates: Detections,
    *,
    iou_threshold: float,
    class_agnostic: bool,
    max_per_image: int,
    kind: Literal["gaussian", "linear"],
    sigma: float,
    score_threshold: float,
    metric: Literal["iou", "diou"],
) -> Detections:
    """Take the box with the highest score, lower the scores that overlap with it, and repeat.

    Factors: gaussian exp(-overlap^2 / sigma), which needs no threshold, so `iou_threshold` has no
    effect; linear 1 - overlap above `iou_threshold`, which needs no sigma. Boxes leave when their
    score is at or below `score_threshold`; the result has the lowered scores. metric as in nms,
    a negative diou counting as 0. Bodla et al., ICCV 2017.
    """
    threshold = iou_threshold if kind == "linear" else 0.0
    thresholds = np.full(len(candidates.scores), float(threshold))
    rows, scores = survivors(
        candidates, thresholds, class_agnostic, max_per_image, kind, sigma, score_threshold, metric
    )
    return result(candidates, rows, scores, max_per_image)


def survivors(
    candidates: Detections,
    thresholds: FloatArray,
    class_agnostic: bool,
    max_per_image: int,
    kind: str,
    sigma: float,
    score_threshold: float,
    metric: str,
) -> tuple[IntArray, FloatArray]:
    """Rows that survive and their scores, at most `max_per_image` of an image and class.

    kind hard: as nms, scores as they were; else as soft, scores lowered. thresholds (N,):
    overlaps up to this leave the other boxes alone when the row is taken.
    """
    if kind == "hard":
        rows = kept_rows(candidates, thresholds, class_agnostic, max_per_image, metric)
        return rows, candidates.scores[rows]
    from detcli.jit import as_kernel_input
    from detcli.postprocess.kernels.decay import soft_kernel

    rows, groups = group(candidates, class_agnostic=class_agnostic)
    return soft_kernel(
        as_kernel_input(candidates.boxes_xywh, np.float64),
        as_kernel_input(candidates.scores, np.float64),
        thresholds,
        rows,
        groups,
        kind == "gaussian",
        sigma,
        score_threshold,
        metric == "diou",
        max_per_image,
    )
