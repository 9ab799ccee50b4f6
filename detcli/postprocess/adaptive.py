"""Adaptive NMS: crowded boxes tolerate more overlap."""

from __future__ import annotations

from typing import Literal

import numpy as np

from detcli.postprocess.ranking import result
from detcli.postprocess.soft import survivors
from detcli.types import Detections


def adaptive(
    candidates: Detections,
    *,
    iou_threshold: float,
    class_agnostic: bool,
    max_per_image: int,
    kind: Literal["hard", "gaussian", "linear"],
    sigma: float,
    score_threshold: float,
    metric: Literal["iou", "diou"],
) -> Detections:
    """Suppress where the overlap exceeds max(iou_threshold, density of the kept box).

    kind hard removes such boxes as nms does; gaussian and linear lower their scores with the
    factors of soft, `score_threshold` and (gaussian) `sigma` included. The density of a box is in
    the column `density`. metric as in nms. Liu et al., CVPR 2019.
    """
    thresholds = np.maximum(np.asarray(candidates.extra["density"], np.float64), iou_threshold)
    rows, scores = survivors(
        candidates, thresholds, class_agnostic, max_per_image, kind, sigma, score_threshold, metric
    )
    return result(candidates, rows, scores, max_per_image)
