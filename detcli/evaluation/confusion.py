"""Which class is taken for which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcli.errors import UsageError
from detcli.evaluation.matching import check_tables
from detcli.types import offsets_of

if TYPE_CHECKING:
    from detcli.types import Detections, GroundTruth, IntArray


@dataclass(frozen=True)
class ConfusionMatrix:
    """counts (K + 1, K + 1): row, class of the object; column, class of the detection.

    The last row holds detections of nothing, the last column objects that nothing found; their
    crossing is 0. score_threshold and iou_threshold: what it was made with.
    """

    class_names: tuple[str, ...]
    counts: IntArray
    score_threshold: float
    iou_threshold: float


def confusion_matrix(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.5,
) -> ConfusionMatrix:
    """Pair detections and objects whatever their class, and count the classes of each pair.

    Detections of at least score_threshold; pairs of at least iou_threshold, largest IoU first,
    each detection and each object in one pair at most. Of equal IoUs a pair of the same class
    comes first, then the better score. Crowd regions and difficult objects are not counted, nor
    are detections left over that overlap one of their own class (of a crowd region: that lie in
    it) by iou_threshold.

    Raises UsageError on an IoU threshold out of (0, 1], DataError as `match` does.
    """
    if not 0.0 < iou_threshold <= 1.0:
        raise UsageError(
            f"confusion matrix: expected an IoU threshold above 0 and up to 1, got {iou_threshold}"
        )
    check_tables(ground_truth, detections)
    from detcli.evaluation.kernels.confusion import confusion_kernel
    from detcli.jit import as_kernel_input, descending_order

    rows = descending_order(detections.scores, detections.offsets)
    image = detections.image_index  # the order within images does not change it
    kept = detections.scores[rows] >= score_threshold
    per_image = np.bincount(image[kept], minlength=detections.num_images)
    counts = confusion_kernel(
        as_kernel_input(detections.boxes_xywh[rows[kept]], np.float64),
        as_kernel_input(detections.labels[rows[kept]], np.int64),
        offsets_of(per_image),
        as_kernel_input(ground_truth.boxes_xywh, np.float64),
        as_kernel_input(ground_truth.labels, np.int64),
        as_kernel_input(ground_truth.crowd, np.bool_),
        ~(ground_truth.crowd | ground_truth.difficult),
        as_kernel_input(ground_truth.offsets, np.int64),
        iou_threshold,
        len(ground_truth.class_names),
    )
    return ConfusionMatrix(ground_truth.class_names, counts, score_threshold, iou_threshold)
