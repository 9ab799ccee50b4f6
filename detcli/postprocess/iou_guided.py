"""IoU-guided NMS: the box that is best placed represents a cluster, with its highest score."""

from __future__ import annotations

from typing import Literal

import numpy as np

from detcli.postprocess.columns import needed_column
from detcli.postprocess.ranking import rank, result
from detcli.types import Detections


def iou_guided(
    candidates: Detections,
    *,
    iou_threshold: float = 0.5,
    class_agnostic: bool = False,
    max_per_image: int = 100,
    metric: Literal["iou", "diou"] = "iou",
) -> Detections:
    """nms in the order of the predicted IoU; a kept box has the highest score among itself and
    the boxes that it removes.

    metric as in nms. Raises DataError without the column `iou`. IoU-Net, Jiang et al., ECCV 2018.
    """
    from detcli.jit import as_kernel_input
    from detcli.postprocess.kernels.cluster import cluster_kernel

    predicted_iou = needed_column(candidates, "iou_guided")
    rows, groups = rank(candidates, predicted_iou, class_agnostic=class_agnostic)
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
