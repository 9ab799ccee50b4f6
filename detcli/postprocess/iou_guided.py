"""IoU-guided NMS: the box that is best placed represents a cluster, with its highest score."""

from __future__ import annotations

from typing import Literal

from detcli.postprocess.ranking import rank, result
from detcli.postprocess.weighted import clusters
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
    ranked = rank(candidates, candidates.extra["iou"], class_agnostic=class_agnostic)
    leaders, _, highest = clusters(
        candidates, candidates.scores, ranked, iou_threshold, metric=metric
    )
    return result(candidates, leaders, highest, max_per_image)
