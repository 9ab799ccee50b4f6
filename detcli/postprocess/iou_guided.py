"""IoU-guided NMS: the box that is best placed represents a cluster, with its highest score."""

from __future__ import annotations

from typing import Literal

import numpy as np

from detcli.postprocess.ranking import rank, result
from detcli.types import Detections


def iou_guided(
    candidates: Detections,
    *,
    iou_threshold: float,
    class_agnostic: bool,
    max_per_image: int,
    metric: Literal["iou", "diou"],
) -> Detections:
    """nms in the order of the predicted IoU, the column `iou`; a kept box has the highest score
    among itself and the boxes that it removes.

    metric as in nms. IoU-Net, Jiang et al., ECCV 2018.
    """
    from detcli.jit import as_kernel_input
    from detcli.postprocess.kernels.cluster import cluster_kernel

    rows, groups = rank(candidates, candidates.extra["iou"], class_agnostic=class_agnostic)
    leaders, _, highest = cluster_kernel(
        as_kernel_input(candidates.boxes_xywh, np.float64),
        as_kernel_input(candidates.scores, np.float64),
        rows,
        groups,
        iou_threshold,
        metric == "diou",
        False,
    )
    return result(candidates, leaders, highest, max_per_image)
