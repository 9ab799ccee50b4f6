"""COCO's twelve numbers and the figures of each class, read off the match table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detcli.evaluation.matching import AREA_NAMES, IOU_THRESHOLDS, MAX_PER_IMAGE, match

if TYPE_CHECKING:
    from detcli.evaluation.matching import MatchTable
    from detcli.types import Detections, FloatArray, GroundTruth, IntArray

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
_T50, _T75 = 0, 5  # positions in IOU_THRESHOLDS


class Metric(NamedTuple):
    """What one of COCO's numbers is the mean of, over the classes too.

    area: position in AREA_NAMES; thresholds: positions in IOU_THRESHOLDS; most: detections per
    image and class that count; recall: a recall, else an average precision.
    """

    area: int
    thresholds: tuple[int, ...] = tuple(range(len(IOU_THRESHOLDS)))
    most: int = MAX_PER_IMAGE
    recall: bool = False


METRICS = {
    "AP": Metric(0),
    "AP50": Metric(0, (_T50,)),
    "AP75": Metric(0, (_T75,)),
    "APs": Metric(1),
    "APm": Metric(2),
    "APl": Metric(3),
    "AR1": Metric(0, most=1, recall=True),
    "AR10": Metric(0, most=10, recall=True),
    "AR100": Metric(0, recall=True),
    "ARs": Metric(1, recall=True),
    "ARm": Metric(2, recall=True),
    "ARl": Metric(3, recall=True),
}
METRIC_NAMES = tuple(METRICS)


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
    num_objects = _count_objects(ground_truth, table)
    precision = [_average_precision(table, num_objects, area) for area in range(len(AREA_NAMES))]
    values = {
        name: _recall(table, num_objects, metric.area, metric.most)
        if metric.recall
        else precision[metric.area][:, metric.thresholds]
        for name, metric in METRICS.items()
    }
    per_class: dict[str, dict[str, float | int | None]] = {
        name: {
            "AP": _mean(values["AP"][label]),
            "AP50": _mean(values["AP50"][label]),
            "AR100": _mean(values["AR100"][label]),
            "objects": int(num_objects[0, label]),
        }
        for label, name in enumerate(ground_truth.class_names)
    }
    return CocoMetrics(
        metrics={name: _mean(value) for name, value in values.items()},
        per_class=per_class,
        images=ground_truth.num_images,
        detections=len(detections.scores),
        notes=_notes(ground_truth, detections, table, num_objects[0]),
    )


def _count_objects(ground_truth: GroundTruth, table: MatchTable) -> IntArray:
    """(A, K) objects that must be found."""
    num_classes = len(ground_truth.class_names)
    labels = ground_truth.labels
    return np.stack(
        [np.bincount(labels[counts], minlength=num_classes) for counts in table.object_counts.T]
    )


def _average_precision(table: MatchTable, num_objects: IntArray, area: int) -> FloatArray:
    """(K, T) interpolated at 101 recall thresholds; NaN for a class without objects."""
    from detcli.evaluation.kernels.match import average_precision

    return average_precision(
        table.class_offsets,
        np.ascontiguousarray(table.true_positive[:, area]),
        np.ascontiguousarray(table.ignored[:, area]),
        num_objects[area],
        RECALL_THRESHOLDS,
        len(IOU_THRESHOLDS),
    )


def _recall(table: MatchTable, num_objects: IntArray, area: int, max_per_image: int) -> FloatArray:
    """(K, T) fraction of objects found by the best detections per image and class, or NaN."""
    from detcli.evaluation.kernels.match import count_true_positives

    found = count_true_positives(
        table.class_offsets,
        np.ascontiguousarray(table.true_positive[:, area]),
        table.rank,
        max_per_image,
        len(IOU_THRESHOLDS),
    )
    objects = num_objects[area][:, None]
    return np.where(objects > 0, found / np.maximum(objects, 1), np.nan)


def _mean(values: FloatArray) -> float | None:
    """Mean over everything that is defined; None where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _notes(
    ground_truth: GroundTruth, detections: Detections, table: MatchTable, num_objects: IntArray
) -> tuple[str, ...]:
    notes = []
    absent = [ground_truth.class_names[label] for label in np.flatnonzero(num_objects == 0)]
    if absent:
        shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        notes.append(
            f"{len(absent)} of {len(num_objects)} classes have no annotated object and are "
            f"excluded from the means: {shown}"
        )
    dropped = len(detections.scores) - len(table.rows)
    if dropped:
        notes.append(
            f"{dropped} detections beyond the best {MAX_PER_IMAGE} per image and class are ignored"
        )
    return tuple(notes)
