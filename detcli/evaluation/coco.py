"""COCO's twelve numbers and the figures of each class, read off the match table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcli.evaluation.matching import AREA_NAMES, IOU_THRESHOLDS, MAX_PER_IMAGE, match

if TYPE_CHECKING:
    from detcli.evaluation.matching import MatchTable
    from detcli.types import BoolArray, Detections, FloatArray, GroundTruth

METRIC_NAMES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
_T50, _T75 = 0, 5  # positions in IOU_THRESHOLDS


@dataclass(frozen=True)
class CocoMetrics:
    """Result of an evaluation. None stands for a figure that no counted object defines.

    metrics: METRIC_NAMES -> 0..1; per_class: class name -> AP, AP50, AR100 and `objects`, the
    number of objects that must be found; images, detections: how many were given; notes: what a
    reader should know beside the figures.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | int | None]]
    images: int
    detections: int
    notes: tuple[str, ...] = ()


def evaluate_coco(ground_truth: GroundTruth, detections: Detections) -> CocoMetrics:
    """Evaluate detections as COCO does; equal to pycocotools, without its quirks.

    Images of both tables correspond by position. No detections at all give zeros. Classes
    without a counted object are left out of every mean. Raises DataError as `match` does.
    """
    return coco_metrics(ground_truth, detections, match(ground_truth, detections))


def coco_metrics(
    ground_truth: GroundTruth, detections: Detections, table: MatchTable
) -> CocoMetrics:
    """The same from a table that `match` made of the same ground truth and detections."""
    num_objects = _count_objects(ground_truth, table.object_counts)
    precision = _average_precision(table, num_objects)
    recall = {
        limit: _recall(table, num_objects[0], 0, limit) for limit in (1, 10, MAX_PER_IMAGE)
    }
    by_area = [_recall(table, num_objects[a], a, MAX_PER_IMAGE) for a in (1, 2, 3)]
    values = (
        precision[0], precision[0][:, _T50], precision[0][:, _T75], *precision[1:],
        *recall.values(), *by_area,
    )  # fmt: skip
    metrics = {name: _mean(value) for name, value in zip(METRIC_NAMES, values, strict=True)}
    per_class: dict[str, dict[str, float | int | None]] = {
        name: {
            "AP": _mean(precision[0][label]),
            "AP50": _mean(precision[0][label, _T50]),
            "AR100": _mean(recall[MAX_PER_IMAGE][label]),
            "objects": int(num_objects[0, label]),
        }
        for label, name in enumerate(ground_truth.class_names)
    }
    return CocoMetrics(
        metrics=metrics,
        per_class=per_class,
        images=ground_truth.num_images,
        detections=len(detections.scores),
        notes=_notes(ground_truth, detections, table),
    )


def _count_objects(ground_truth: GroundTruth, object_counts: BoolArray) -> FloatArray:
    """(A, K) objects that must be found."""
    num_classes = len(ground_truth.class_names)
    return np.stack(
        [
            np.bincount(ground_truth.labels[object_counts[:, area]], minlength=num_classes)
            for area in range(len(AREA_NAMES))
        ]
    )
