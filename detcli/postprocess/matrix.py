"""Matrix NMS: every score is lowered once, in one pass."""

from __future__ import annotations

from typing import Literal

import numpy as np

from detcli.postprocess.ranking import rank, result
from detcli.types import Detections


def matrix(
    candidates: Detections,
    *,
    class_agnostic: bool,
    max_per_image: int,
    kernel: Literal["gaussian", "linear"],
    sigma: float,
    score_threshold: float,
    metric: Literal["iou", "diou"],
) -> Detections:
    """Lower each score by the strongest overlap with a better box, discounted by how much that
    box is itself overlapped.

    The factor of box j is the minimum over better boxes i of f(overlap_ij) / f(largest overlap of
    i with a box better than i); f is exp(-overlap^2 / sigma) or, linear, 1 - overlap. A box i that
    equals a better one has f = 0 and is passed over: the better one counts. Boxes leave when
    their score is at or below `score_threshold`. The method has no threshold of overlap. metric as
    in soft.
    SOLOv2, Wang et al., NeurIPS 2020, there with masks instead of boxes.
    """
    from detcli.jit import as_kernel_input
    from detcli.postprocess.kernels.decay import matrix_kernel

    rows, groups = rank(candidates, candidates.scores, class_agnostic=class_agnostic)
    kept, scores = matrix_kernel(
        as_kernel_input(candidates.boxes_xywh, np.float64),
        as_kernel_input(candidates.scores, np.float64),
        rows,
        groups,
        kernel == "gaussian",
        sigma,
        score_threshold,
        metric == "diou",
    )
    return result(candidates, kept, scores, max_per_image)
