"""What `lr-scale` prints: the answer as plain values and as rows of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detcli.engine.lr_scale.rules import SOURCES, Scaled

ADJUSTMENT_HEADER = ("setting", "base", "here", "why")
TABLE_HEADER = (
    "images per step",
    "lr, linear",
    "lr, sqrt",
    "warm-up steps",
    "EMA decay",
    "iterations",
    "",
)


def to_json(scaled: Scaled) -> dict[str, Any]:
    """The answer as plain values."""
    base, step = scaled.base, scaled.step
    return {
        "lr": scaled.lr,
        "base_lr": base.lr,
        "base_batch": base.batch,
        "batch": step.images,
        "rule": base.rule,
        "formula": scaled.formula,
        "warnings": list(scaled.warnings),
        "optimizer": base.optimizer,
        **step._asdict(),
        "adjustments": [each._asdict() for each in scaled.adjustments],
        "schedule": None if scaled.length is None else scaled.length._asdict(),
        "asked": None,
        "table": [row._asdict() for row in scaled.table],
        "written": None,
        "find": None,
    }


def summary_lines(scaled: Scaled, asked: Mapping[str, float] | None) -> Iterator[str]:
    """Rate, batch and length in sentences; `asked`: a number of iterations in epochs."""
    base, step = scaled.base, scaled.step
    yield f"learning rate {scaled.formula}   ({SOURCES[base.rule]})"
    yield (
        f"{step.images} images per step: gpus {step.gpus} x imgs-per-gpu {step.imgs_per_gpu} x "
        f"accumulate {step.accumulate}; base {base.lr:g} at {base.batch}, {base.optimizer}"
    )
    length, batch = scaled.length, scaled.step.images
    if length is None:
        yield f"{scaled.base.epochs} epochs; in iterations with --images N"
        return
    drops = f", drops after {', '.join(map(str, length.milestones))}" if length.milestones else ""
    yield (
        f"{length.epochs} epochs of {length.images} images = {length.iterations} iterations "
        f"({length.steps_per_epoch} an epoch){drops}; warm-up {length.warmup_epochs:.3g} epochs"
    )
    if asked is not None:
        yield (
            f"{asked['iterations']} iterations x {batch} images / {length.images} = "
            f"{asked['epochs']:.4g} epochs"
        )


def adjustment_rows(scaled: Scaled) -> list[tuple[str, ...]]:
    """One row for each setting that depends on the batch size, columns as in
    ADJUSTMENT_HEADER."""
    return [(each.key, cell(each.base), cell(each.value), each.why) for each in scaled.adjustments]


def table_rows(scaled: Scaled) -> list[tuple[str, ...]]:
    """One row for each batch size, columns as in TABLE_HEADER."""
    marks = {scaled.base.batch: "base"}
    marks[scaled.step.images] = "base, here" if scaled.step.images in marks else "here"
    return [
        (
            str(row.batch),
            f"{row.linear:.4g}",
            f"{row.sqrt:.4g}",
            str(row.warmup_steps),
            "-" if row.ema_decay is None else f"{row.ema_decay:.6g}",
            "-" if row.iterations is None else str(row.iterations),
            marks.get(row.batch, ""),
        )
        for row in scaled.table
    ]


def cell(value: float | tuple[float, float]) -> str:
    """A setting in a table."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(cell, value))}]"
    return f"{value:.6g}"
