"""Greedy non-maximum suppression, with IoU or with the centre-distance penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from detcli.postprocess.ranking import rank, result
from detcli.types import Detections

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


def nms(
    candidates: Detections,
    *,
    iou_threshold: float,
    class_agnostic: bool,
    max_per_image: int,
    metric: Literal["iou", "diou"],
) -> Detections:
    """Keep a box unless its overlap with a kept box of higher score exceeds the threshold.

    With metric iou equal to torchvision.ops.nms per class and image, ties included: IoU is
    computed in float32 from float32 corners, in torchvision's order of operations. metric diou:
    IoU minus the squared distance of the centres over the squared diagonal of the enclosing box
    (DIoU-NMS, Zheng et al., AAAI 2020).
    """
    thresholds = np.full(len(candidates.scores), float(iou_threshold))
    rows = kept_rows(candidates, thresholds, class_agnostic, max_per_image, metric)
    return result(candidates, rows, candidates.scores[rows], max_per_image)


def diou(
    candidates: Detections, *, iou_threshold: float, class_agnostic: bool, max_per_image: int
) -> Detections:
    """nms with the metric diou: boxes with distant centres may belong to two objects."""
    return nms(
        candidates,
        iou_threshold=iou_threshold,
        class_agnostic=class_agnostic,
        max_per_image=max_per_image,
        metric="diou",
    )


def kept_rows(
    candidates: Detections,
    thresholds: FloatArray,
    class_agnostic: bool,
    max_per_image: int,
    metric: str,
) -> IntArray:
    """Rows that greedy suppression keeps, at most `max_per_image` of each image and class.

    thresholds (N,): how much a row, once kept, lets lower ones overlap with it.
    """
    from detcli.jit import as_kernel_input
    from detcli.postprocess.kernels.nms import nms_kernel

    rows, groups = rank(candidates, candidates.scores, class_agnostic=class_agnostic)
    boxes_xywh = as_kernel_input(candidates.boxes_xywh, np.float64)
    return nms_kernel(boxes_xywh, rows, groups, thresholds, metric == "diou", max_per_image)
