"""What stands behind the metrics: curves, kinds of errors, confusion, calibration. Never imports
torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detcli.engine.pictures import plots
from detcli.evaluation import (
    Calibration,
    ConfusionMatrix,
    Curves,
    ErrorReport,
    calibration,
    confusion_matrix,
    error_report,
    match,
    precision_recall,
)
from detcli.evaluation import report as rows
from detcli.types import Detections, GroundTruth

MOST_CLASSES = 20  # a wider confusion matrix is unreadable in a terminal


@dataclass(frozen=True)
class Analysis:
    """Each part as its own module describes it."""

    curves: Curves
    errors: ErrorReport
    confusion: ConfusionMatrix
    calibration: Calibration


def analyse(truth: GroundTruth, detections: Detections, score_threshold: float) -> Analysis:
    """score_threshold: of the confusion matrix, the only part that needs one."""
    table = match(truth, detections)
    return Analysis(
        precision_recall(truth, table),
        error_report(truth, detections, table),
        confusion_matrix(truth, detections, score_threshold=score_threshold),
        calibration(truth, table),
    )


def tables(found: Analysis) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """(title, header, rows) of every part that reads well as text."""
    confusion, calibrated = found.confusion, found.calibration
    listed = [
        ("kinds of errors", rows.ERROR_HEADER, rows.error_rows(found.errors)),
        (
            f"calibration at IoU {calibrated.iou_threshold:g}: expected error "
            f"{rows.format_value(calibrated.error)}",
            rows.CALIBRATION_HEADER,
            rows.calibration_rows(calibrated),
        ),
    ]
    if len(confusion.class_names) <= MOST_CLASSES:
        title = (
            f"confusion at score {confusion.score_threshold:g} and IoU {confusion.iou_threshold:g}"
        )
        listed.append((title, rows.confusion_header(confusion), rows.confusion_rows(confusion)))
    return listed


def to_json(found: Analysis) -> dict[str, Any]:
    """The key `analysis` of `eval --analyse --json`."""
    return {
        "errors": rows.errors_to_json(found.errors),
        "calibration": rows.calibration_to_json(found.calibration),
        "confusion": rows.confusion_to_json(found.confusion),
    }


def write_plots(folder: Path, found: Analysis) -> list[Path]:
    """Every part as PNG and SVG."""
    figures = {
        "precision_recall": plots.plot_precision_recall(found.curves),
        "errors": plots.plot_errors({"all classes": found.errors}),
        "confusion": plots.plot_confusion(found.confusion),
        "calibration": plots.plot_reliability(found.calibration),
    }
    return plots.save_figures(folder, figures)
