"""Weighted boxes fusion: every box of every model counts in the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from detcli.postprocess.ensemble import fusible, model_weights, models_of, weighted_scores
from detcli.postprocess.ranking import rank, result
from detcli.types import Detections

if TYPE_CHECKING:
    from detcli.types import FloatArray


def wbf(
    candidates: Detections,
    *,
    iou_threshold: float,
    class_agnostic: bool,
    max_per_image: int,
    weights: Sequence[float] | None = None,
    skip_box_threshold: float,
    conf_type: Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"],
    allows_overflow: bool,
) -> Detections:
    """Boxes join the cluster whose mean box they overlap most; the means are the result.

    Equal to ensemble-boxes' weighted_boxes_fusion but for its float32 sums: scores are multiplied
    by the weight of their model (column `model`); boxes without area, and those whose own score
    is below `skip_box_threshold`, take no part. The confidence is the mean of the scores (avg),
    scaled by the share of models that agree, which `allows_overflow` lets exceed 1; the largest
    score (max); or the mean with boxes and models weighted (box_and_model_avg), or with the
    models that found nothing counted (absent_model_aware_avg). Label and extra columns are those
    of a cluster's first box.
    Raises UsageError unless there is one weight per model.
    Solovyev et al., Image and Vision Computing 107, 2021.
    """
    from detcli.jit import as_kernel_input
    from detcli.postprocess.kernels.wbf import wbf_kernel

    per_model = model_weights(candidates, weights)
    scores = weighted_scores(candidates, per_model)
    rows, groups = rank(candidates, scores, class_agnostic=class_agnostic)
    rows, groups = fusible(candidates, rows, groups, skip_box_threshold)
    kept, boxes, facts = wbf_kernel(
        as_kernel_input(candidates.boxes_xywh, np.float64),
        as_kernel_input(scores, np.float64),
        models_of(candidates),
        per_model,
        rows,
        groups,
        iou_threshold,
    )
    confidence = _confidence(scores[kept], facts, per_model, conf_type, allows_overflow)
    return result(candidates, kept, confidence, max_per_image, boxes)


def _confidence(
    highest: FloatArray,
    facts: FloatArray,
    per_model: FloatArray,
    conf_type: str,
    allows_overflow: bool,
) -> FloatArray:
    """(C,) confidence of each cluster; highest (C,) its best score, facts (C, 4) as wbf_kernel
    returns them."""
    score_sum, num_boxes, box_weight, present_weight = facts.T
    total_weight = per_model.sum()
    confidence: FloatArray
    if conf_type == "max":
        confidence = highest / per_model.max()
    elif conf_type == "box_and_model_avg":
        confidence = score_sum / box_weight * present_weight / total_weight
    elif conf_type == "absent_model_aware_avg":
        confidence = score_sum / (box_weight + total_weight - present_weight)
    elif allows_overflow:
        confidence = score_sum / total_weight
    else:
        agreeing = np.minimum(len(per_model), num_boxes)
        confidence = score_sum / num_boxes * agreeing / total_weight
    return confidence
