"""Matrix NMS: every score is lowered once, in one pass."""

from __future__ import annotations

from typing import Literal

import numpy as np

from detcli.postprocess.ranking import rank, result
from detcli.types import Detections


def matrix(
    candidates: Detections,
    *,
    iou_threshold: float = 0.5,
    class_agnostic: bool = False,
    max_per_image: int = 100,
    kernel: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    metric: Literal["iou", "diou"] = "iou",
) -> Detections:
    """Lower each score by the strongest overlap with a better box, discounted by how much that
    box is itself overlapped.

    The factor of box j is the minimum over better boxes i of f(overlap_ij) / f(largest overlap of
    i with a box better than i); f is exp(-overlap^2 / sigma) or, linear, 1 - overlap. A box i that
    equals a better one has f = 0 and is passed over: the better one counts. Boxes leave when
    their score is at or below `score_threshold`. The method has no threshold of overlap:
    `iou_threshold` is taken for the sake of uniform calls and has no effect. metric as in soft.
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
