"""An ablation as rows for a table, JSON, CSV, plots and one HTML page. Prints nothing."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detcli.engine.ablate.outcome import METRICS, Cost, Outcome, Row
from detcli.engine.pictures.plots import (
    Interval,
    TimedAP,
    plot_ap_against_time,
    plot_differences,
    save_figures,
)
from detcli.evaluation.report import difference_json
from detcli.files import write_atomically
from detcli.recipe import diff_recipes
from detcli.recipe.reading import shown

HEADER = (
    "trick",
    "seeds",
    "AP",
    "AP50",
    "spread",
    "difference",
    "95 % interval",
    "p",
    "ms/image",
    "eval ms/image",
    "memory",
    "time",
    "verdict",
)
NAME = "ablation"


def table_rows(outcome: Outcome) -> list[list[str]]:
    """One row of text per system, columns as in HEADER; AP and differences in points."""
    return [
        [
            label(row),
            str(len(row.values)),
            _points(row.metrics["AP"]),
            _points(row.metrics["AP50"]),
            "-" if row.spread is None else f"{100 * row.spread:.2f}",
            *_delta_cells(row),
            *_cost_cells(row.cost),
            row.verdict,
        ]
        for row in outcome.rows
    ]


def label(row: Row) -> str:
    """A system's name in a table: `base`, `+ ema`, `all`, `all - ema`."""
    system = row.system
    if system.removes:
        return f"all - {system.trick}"
    return system.name if system.trick in (None, "all") else f"+ {system.trick}"


def _delta_cells(row: Row) -> list[str]:
    delta = row.delta
    if delta is None or delta.value is None or delta.low is None or delta.high is None:
        return ["-", "-", "-"]
    return [
        f"{100 * delta.value:+.2f}",
        f"{100 * delta.low:+.2f} to {100 * delta.high:+.2f}",
        f"{delta.p:.3f}",
    ]


def _cost_cells(cost: Cost | None) -> list[str]:
    if cost is None:
        return ["-"] * 4
    evaluated = "-" if cost.eval_ms_per_image is None else f"{cost.eval_ms_per_image:.1f}"
    minutes, seconds = divmod(round(cost.train_seconds), 60)
    clock = f"{minutes}:{seconds:02d}"
    return [f"{cost.train_ms_per_image:.1f}", evaluated, f"{cost.memory_gib:.2f} GiB", clock]


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The document of `ablate --json`; figures that are not defined are null."""
    first, *others = outcome.rows
    return {
        "base": _row_json(first),
        "rows": [_row_json(row) for row in others],
        "images": outcome.images,
        "resamples": outcome.resamples,
        "notes": list(outcome.notes),
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.system.name,
        "trick": row.system.trick,
        "removed": row.system.removes,
        "against": row.system.against,
        "seeds": len(row.values),
        **row.metrics,
        "values": list(row.values),
        "spread": row.spread,
        "delta": {"AP": difference_json(row.delta) | {"seed_margin": row.seed_margin}},
        "cost": None if row.cost is None else asdict(row.cost),
        "verdict": row.verdict,
        "failed": {str(seed): why for seed, why in row.failed.items()},
        "never_fired": list(row.idle),
    }


def write_report(folder: Path, outcome: Outcome) -> list[Path]:
    """ablation.json, .csv, .html and the plots, into `folder`."""
    paths = [folder / f"{NAME}.json", folder / f"{NAME}.csv"]
    document = to_json(outcome)
    write_atomically(paths[0], json.dumps(document, indent=1, allow_nan=False))
    write_atomically(paths[1], to_csv([document["base"], *document["rows"]]))
    plots = write_plots(folder, outcome)
    page = folder / f"{NAME}.html"
    write_atomically(page, to_html(outcome, [path for path in plots if path.suffix == ".svg"]))
    return [*paths, *plots, page]


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of the JSON document, a line each, figures in full."""
    flat = [
        {
            **{key: row[key] for key in ("name", "trick", "against", "seeds", *METRICS, "spread")},
            **{f"delta_{key}": value for key, value in row["delta"]["AP"].items()},
            **(row["cost"] or {}),
            "verdict": row["verdict"],
            "failed": "; ".join(f"seed {seed}: {why}" for seed, why in row["failed"].items()),
        }
        for row in rows
    ]
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in flat for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def write_plots(folder: Path, outcome: Outcome) -> list[Path]:
    """Differences with their intervals, and AP against training time, as PNG and SVG."""
    intervals = [
        Interval(label(row), row.delta.value, row.delta.low, row.delta.high)
        for row in outcome.rows
        if row.delta is not None
    ]
    points = [
        TimedAP(label(row), row.cost.train_ms_per_image, row.metrics["AP"] or 0.0)
        for row in outcome.rows
        if row.cost is not None and row.cost.train_ms_per_image > 0
    ]
    figures = {}
    if intervals:
        title = f"AP - AP of what it is compared with, {outcome.images} images"
        figures["differences"] = plot_differences(intervals, title=title)
    if points:
        figures["ap_against_time"] = plot_ap_against_time(points, time="ms per training image")
    return save_figures(folder, figures)


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left; }}
svg {{ max-width: 100%; height: auto; }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
{table}
<ul>{notes}</ul>
{plots}
<h2>Settings that each changes</h2>
{changes}
</html>
"""


def to_html(outcome: Outcome, plots: Sequence[Path]) -> str:
    """One page with everything in it: the table, the notes, the plots, the settings."""
    base = outcome.plan.baseline
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in outcome.notes)
    seeds = ", ".join(map(str, outcome.plan.seeds))
    changes = [
        (label(row), key, shown(old), shown(new))
        for row in outcome.rows[1:]
        for key, old, new in diff_recipes(base.recipe, row.system.recipe)
    ]
    return PAGE.format(
        title=html.escape(f"Ablation of {base.recipe.name}"),
        summary=html.escape(
            f"{base.recipe.schedule.num_epochs} epochs, seeds {seeds}, measured on "
            f"{outcome.images} images after the last epoch; intervals from {outcome.resamples} "
            "paired resamples of the images"
        ),
        table=_html_table(HEADER, table_rows(outcome)),
        notes=notes,
        plots="\n".join(_inline(path.read_text(encoding="utf-8")) for path in plots),
        changes=_html_table(("trick", "setting", base.name, "value"), changes),
    )


def _inline(svg: str) -> str:
    """An SVG file without what stands before its picture."""
    return svg[svg.index("<svg") :]


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "\n".join(
        ["<table>", line(header, "th"), *(line(row, "td") for row in rows), "</table>"]
    )
