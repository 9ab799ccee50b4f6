"""Metrics as rows for a table and as JSON documents. Prints nothing.

Figures that are not defined are dashes in a table and null in JSON, never NaN.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from detcli.evaluation.bootstrap import Difference
from detcli.evaluation.coco import METRICS
from detcli.evaluation.matching import AREA_NAMES, IOU_THRESHOLDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.evaluation.calibration import Calibration
    from detcli.evaluation.coco import CocoMetrics
    from detcli.evaluation.confusion import ConfusionMatrix
    from detcli.evaluation.errors import ErrorReport
    from detcli.evaluation.voc import VocMetrics

SUMMARY_HEADER = ("metric", "IoU", "area", "max detections", "value")
CLASS_HEADER = ("class", "objects", "AP", "AP50", "AR100")
VOC_HEADER = ("class", "objects", "detections", "AP")
ERROR_HEADER = ("error", "count", "AP50 gain if fixed")
CALIBRATION_HEADER = ("score", "detections", "mean score", "precision")


def format_value(value: float | None) -> str:
    """Four decimals; a dash for a figure that no object defines, None or NaN."""
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"


def summary_rows(result: CocoMetrics) -> list[tuple[str, ...]]:
    """One row per metric, columns as in SUMMARY_HEADER."""
    rows: list[tuple[str, ...]] = []
    for name, (area, thresholds, most, _) in METRICS.items():
        ends = dict.fromkeys(f"{IOU_THRESHOLDS[t]:.2f}" for t in (thresholds[0], thresholds[-1]))
        value = format_value(result.metrics[name])
        rows.append((name, ":".join(ends), AREA_NAMES[area], str(most), value))
    return rows


def class_rows(result: CocoMetrics) -> list[tuple[str, ...]]:
    """One row per class in label order, columns as in CLASS_HEADER."""
    return [
        (name, str(row["objects"]), *(format_value(row[key]) for key in ("AP", "AP50", "AR100")))
        for name, row in result.per_class.items()
    ]


def to_json(result: CocoMetrics) -> dict[str, Any]:
    """The fixed keys of `eval --json`."""
    return {
        "metrics": result.metrics,
        "per_class": result.per_class,
        "images": result.images,
        "detections": result.detections,
    }


def voc_rows(result: VocMetrics) -> list[tuple[str, ...]]:
    """One row per class in label order and one for their mean, columns as in VOC_HEADER."""
    rows = [
        (name, str(row["objects"]), str(row["detections"]), format_value(row["AP"]))
        for name, row in result.per_class.items()
    ]
    objects = sum(row["objects"] or 0 for row in result.per_class.values())
    return [*rows, ("mean", str(objects), str(result.detections), format_value(result.mAP))]


def voc_to_json(result: VocMetrics) -> dict[str, Any]:
    """mAP, per_class, and under which rule: iou_threshold, interpolation."""
    return {
        "metrics": {"mAP": result.mAP},
        "per_class": result.per_class,
        "images": result.images,
        "detections": result.detections,
        "iou_threshold": result.iou_threshold,
        "interpolation": "11-point" if result.eleven_point else "every-point",
    }


def error_rows(report: ErrorReport) -> list[tuple[str, ...]]:
    """One row per kind, columns as in ERROR_HEADER."""
    main = [
        (kind, str(report.count[kind]), format_value(gain)) for kind, gain in report.cost.items()
    ]
    return [*main, *((kind, "-", format_value(gain)) for kind, gain in report.special.items())]


def errors_to_json(report: ErrorReport) -> dict[str, Any]:
    """AP50, and by kind the cost and the count."""
    return asdict(report)


def calibration_rows(result: Calibration) -> list[tuple[str, ...]]:
    """One row per bin of score, columns as in CALIBRATION_HEADER."""
    return [
        (
            f"{result.edges[n]:.2f} to {result.edges[n + 1]:.2f}",
            str(count),
            format_value(result.mean_score[n]),
            format_value(result.precision[n]),
        )
        for n, count in enumerate(result.count)
    ]


def calibration_to_json(result: Calibration) -> dict[str, Any]:
    """The expected calibration error, over all and by class, and the bins."""
    return {
        "error": result.error,
        "per_class": result.class_errors,
        "iou_threshold": result.iou_threshold,
        "edges": result.edges.tolist(),
        "count": result.count.tolist(),
        "mean_score": _list(result.mean_score),
        "precision": _list(result.precision),
    }


def confusion_header(matrix: ConfusionMatrix) -> tuple[str, ...]:
    """Class of the object, then the classes of detections, then objects that nothing found."""
    return ("ground truth / predicted", *matrix.class_names, "missed")


def confusion_rows(matrix: ConfusionMatrix) -> list[tuple[str, ...]]:
    """One row per class of object and one for detections of none, as in confusion_header."""
    names = (*matrix.class_names, "background")
    return [
        (name, *(str(count) for count in row))
        for name, row in zip(names, matrix.counts, strict=True)
    ]


def confusion_to_json(matrix: ConfusionMatrix) -> dict[str, Any]:
    """The counts as lists, row by row, and the thresholds they hold for."""
    return {
        "classes": list(matrix.class_names),
        "counts": matrix.counts.tolist(),
        "score_threshold": matrix.score_threshold,
        "iou_threshold": matrix.iou_threshold,
    }


def _list(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def difference_cells(delta: Difference | None) -> tuple[str, str, str]:
    """Difference, interval and p as text, dashes where there is none."""
    if delta is None or delta.value is None or delta.low is None or delta.high is None:
        return "-", "-", "-"
    p = "-" if delta.p is None else f"{delta.p:.3f}"
    return f"{delta.value:+.4f}", f"{delta.low:+.4f} to {delta.high:+.4f}", p


def difference_json(delta: Difference | None) -> dict[str, float | None]:
    """`value` is the difference on the images as they are, `mean` that over the resamples."""
    keys = ("value", "mean", "low", "high", "p")
    return {key: None if delta is None else getattr(delta, key) for key in keys}
