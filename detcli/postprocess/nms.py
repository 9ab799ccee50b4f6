"""Greedy non-maximum suppression."""

from __future__ import annotations

import numpy as np

from detcli.types import Detections


def nms(
    candidates: Detections, *, iou_threshold: float, class_agnostic: bool, max_per_image: int
) -> Detections:
    """Keep a box unless its IoU with a kept box of higher score exceeds the threshold.

    Equal to torchvision.ops.nms per class and image, ties included: IoU is computed in float32
    from float32 corners, in torchvision's order of operations. An image is left as soon as
    `max_per_image` boxes are kept, which changes nothing: later ones score lower.
    """
    from detcli.kernels import as_kernel_input, descending_order
    from detcli.postprocess.nms_kernel import nms_kernel

    labels = np.zeros_like(candidates.labels) if class_agnostic else candidates.labels
    offsets = as_kernel_input(candidates.offsets, np.int64)
    rows, kept_offsets = nms_kernel(
        as_kernel_input(candidates.boxes_xywh, np.float64),
        as_kernel_input(labels, np.int64),
        descending_order(candidates.scores, offsets),
        offsets,
        iou_threshold,
        max_per_image,
    )
    return Detections(
        offsets=kept_offsets,
        boxes_xywh=candidates.boxes_xywh[rows],
        scores=candidates.scores[rows],
        labels=candidates.labels[rows],
        extra={name: column[rows] for name, column in candidates.extra.items()},
    )
