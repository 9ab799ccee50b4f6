"""Adaptive NMS: crowded boxes tolerate more overlap."""

from __future__ import annotations

from typing import Literal

import numpy as np

from detcli.postprocess.columns import needed_column
from detcli.postprocess.ranking import result
from detcli.postprocess.soft import survivors
from detcli.types import Detections


def adaptive(
    candidates: Detections,
    *,
    iou_threshold: float = 0.5,
    class_agnostic: bool = False,
    max_per_image: int = 100,
    kind: Literal["hard", "gaussian", "linear"] = "hard",
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    metric: Literal["iou", "diou"] = "iou",
) -> Detections:
    """Suppress where the overlap exceeds max(iou_threshold, density of the kept box).

    kind hard removes such boxes as nms does; gaussian and linear lower their scores with the
    factors of soft, `score_threshold` and (gaussian) `sigma` included. metric as in nms.
    Raises DataError without the column `density`. Liu et al., CVPR 2019.
    """
    thresholds = np.maximum(needed_column(candidates, "adaptive"), iou_threshold)
    rows, scores = survivors(
        candidates,
        thresholds,
        class_agnostic=class_agnostic,
        max_per_image=max_per_image,
        kind=kind,
        sigma=sigma,
        score_threshold=score_threshold,
        metric=metric,
    )
    return result(candidates, rows, scores, max_per_image)
