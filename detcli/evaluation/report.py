"""Metrics as rows for a table and as the JSON document of `eval`. Prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detcli.evaluation.coco import CocoMetrics

SUMMARY_HEADER = ("metric", "IoU", "area", "boxes per image and class", "value")
CLASS_HEADER = ("class", "objects", "AP", "AP50", "AR100")

_SUMMARY = {
    "AP": ("0.50:0.95", "all", "100"),
    "AP50": ("0.50", "all", "100"),
    "AP75": ("0.75", "all", "100"),
    "APs": ("0.50:0.95", "small", "100"),
    "APm": ("0.50:0.95", "medium", "100"),
    "APl": ("0.50:0.95", "large", "100"),
    "AR1": ("0.50:0.95", "all", "1"),
    "AR10": ("0.50:0.95", "all", "10"),
    "AR100": ("0.50:0.95", "all", "100"),
    "ARs": ("0.50:0.95", "small", "100"),
    "ARm": ("0.50:0.95", "medium", "100"),
    "ARl": ("0.50:0.95", "large", "100"),
}


def format_value(value: float | None) -> str:
    """Four decimals; a dash for a figure that no object defines."""
    return "-" if value is None else f"{value:.4f}"


def summary_rows(result: CocoMetrics) -> list[tuple[str, ...]]:
    """One row per metric, columns as in SUMMARY_HEADER."""
    return [
        (name, *conditions, format_value(result.metrics[name]))
        for name, conditions in _SUMMARY.items()
    ]


def class_rows(result: CocoMetrics) -> list[tuple[str, ...]]:
    """One row per class in label order, columns as in CLASS_HEADER."""
    return [
        (name, str(row["objects"]), *(format_value(row[key]) for key in ("AP", "AP50", "AR100")))
        for name, row in result.per_class.items()
    ]


def to_json(result: CocoMetrics) -> dict[str, Any]:
    """The fixed keys of `eval --json`; figures that are not defined are null, never NaN."""
    return {
        "metrics": result.metrics,
        "per_class": result.per_class,
        "images": result.images,
        "detections": result.detections,
    }
