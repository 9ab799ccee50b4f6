"""No suppression: for detectors that propose each object once."""

from __future__ import annotations

import numpy as np

from detcli.postprocess.ranking import result
from detcli.types import Detections


def none(
    candidates: Detections,
    *,
    iou_threshold: float = 0.5,
    class_agnostic: bool = False,
    max_per_image: int = 100,
) -> Detections:
    """The best candidates as they are (CenterNet, DETR).

    `iou_threshold` and `class_agnostic` are taken for the sake of uniform calls and have no effect.
    """
    rows = np.arange(len(candidates.scores))
    return result(candidates, rows, candidates.scores, max_per_image)
