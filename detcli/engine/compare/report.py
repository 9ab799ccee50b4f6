"""A comparison of methods as a table, as JSON, and as files. Prints nothing."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import msgspec

from detcli.engine.compare.nms_compare import Comparison, MethodResult
from detcli.engine.pictures import plots
from detcli.errors import UsageError
from detcli.evaluation import METRIC_NAMES, precision_recall
from detcli.evaluation.report import difference_cells, difference_json, format_value
from detcli.files import write_atomically
from detcli.predictions import PredictionsMeta, write_predictions
from detcli.predictions.with_truth import PredictionFiles

_SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
HEADER = ("method", *_SHOWN, "boxes/image", "ms/image", "x nms", "AP - {}", "95 % interval", "p")


def header(comparison: Comparison) -> list[str]:
    """Column titles; the differences name the baseline."""
    baseline = comparison.rows[comparison.baseline].spec.label
    return [title.format(baseline) for title in HEADER]


def table_rows(comparison: Comparison) -> list[list[str]]:
    """One row of text per method."""
    return [
        [
            row.spec.label,
            *(
                format_value(None if row.result is None else row.result.metrics[name])
                for name in _SHOWN
            ),
            f"{row.boxes_per_image:.1f}",
            f"{row.ms_per_image:.3f}",
            f"{_relative_time(comparison, row):.2f}",
            *difference_cells(None if index == comparison.baseline else row.delta),
        ]
        for index, row in enumerate(comparison.rows)
    ]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The document of `nms-compare --json`; figures that are not defined are null."""
    return {
        "rows": [_row_json(comparison, row) for row in comparison.rows],
        "images": comparison.ground_truth.num_images,
        "baseline": comparison.rows[comparison.baseline].spec.label,
        "notes": list(comparison.notes),
    }


def _row_json(comparison: Comparison, row: MethodResult) -> dict[str, Any]:
    metrics = row.result.metrics if row.result is not None else dict.fromkeys(METRIC_NAMES)
    return {
        "method": row.spec.name,
        "params": row.spec.params,
        **metrics,
        "boxes_per_image": row.boxes_per_image,
        "ms_per_image": row.ms_per_image,
        "relative_time": _relative_time(comparison, row),
        "delta": {"AP": difference_json(row.delta)},
    }


def _relative_time(comparison: Comparison, row: MethodResult) -> float:
    return row.ms_per_image / comparison.rows[comparison.nms].ms_per_image


def write_report(folder: Path, comparison: Comparison, files: PredictionFiles) -> list[Path]:
    """Fused predictions of every method, methods.csv and, with ground truth, plots.

    Raises UsageError when two methods would be written under the same name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [file_name(row) for row in comparison.rows]
    if len(set(names)) < len(names):
        raise UsageError(f"--out: two methods give the same file name among {', '.join(names)}")
    written = []
    for name, row in zip(names, comparison.rows, strict=True):
        meta = _meta(comparison, row, files)
        written.append(folder / f"{name}.json")
        write_predictions(written[-1], row.detections, comparison.ground_truth, meta)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header(comparison))
    writer.writerows(table_rows(comparison))
    write_atomically(folder / "methods.csv", text.getvalue())
    written.append(folder / "methods.csv")
    if files.annotations is not None:
        written += _plots(folder, comparison)
    return written


def file_name(row: MethodResult) -> str:
    """A method's label as a file name: `soft_sigma-0.1`."""
    kept = (
        letter if letter.isalnum() or letter in "._" else "-"
        for letter in row.spec.label.replace(" ", "_")
    )
    return "".join(kept)


def _meta(comparison: Comparison, row: MethodResult, files: PredictionFiles) -> PredictionsMeta:
    known = [meta for meta in files.metas if meta is not None]
    start = known[0] if known else PredictionsMeta(kind="detections")
    truth = None if files.annotations is None else str(files.annotations.resolve())
    model = " + ".join(meta.model or "?" for meta in known) or None
    return msgspec.structs.replace(start, kind="detections", ground_truth=truth, model=model)


def _plots(folder: Path, comparison: Comparison) -> list[Path]:
    """AP against time, and precision against recall, as PNG and SVG."""
    rows = [
        plots.TimedAP(
            row.spec.label,
            row.ms_per_image,
            row.result.metrics["AP"] or 0.0,
            None if row.estimate is None else row.estimate.low,
            None if row.estimate is None else row.estimate.high,
        )
        for row in comparison.rows
        if row.result is not None
    ]
    curves = {
        row.spec.label: precision_recall(comparison.ground_truth, row.table)
        for row in comparison.rows
        if row.table is not None
    }
    figures = {
        "ap_against_time": plots.plot_ap_against_time(rows),
        "precision_recall": plots.plot_mean_curves(curves),
    }
    return plots.save_figures(folder, figures)
