"""No suppression: for detectors that propose each object once."""

from __future__ import annotations

import numpy as np

from detcli.postprocess.ranking import result
from detcli.types import Detections


def none(candidates: Detections, *, max_per_image: int) -> Detections:
    """The best candidates as they are (CenterNet, DETR)."""
    rows = np.arange(len(candidates.scores))
    return result(candidates, rows, candidates.scores, max_per_image)
