"""Pictures of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detcli.engine.pictures.plots import COLOURS, STYLES

NO_TERMS = {"kind", "epoch", "step", "lr", "images_per_s", "data_wait", "memory_gib"}


def plot_curves(folder: Path) -> Path | None:
    """Losses, learning rate and AP of a run over its steps, as curves.png in the run folder.

    None when metrics.jsonl holds nothing to draw.
    """
    lines = read_metrics(folder)
    kinds = ("train", "eval", "val_loss", "matching")
    training, measured, validated, matching = (
        [line for line in lines if line["kind"] == kind] for kind in kinds
    )
    if not training and not measured:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.2))
    losses, rate, quality = figure.subplots(1, 3)
    for axis in (losses, quality):  # to be told apart without colour, too
        axis.set_prop_cycle(color=COLOURS, linestyle=STYLES)
    _draw_losses(losses, training, validated)
    _line(rate, training, "lr", color="tab:gray")
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        _line(quality, measured, name, marker="o", markersize=3)
    _line(
        quality, matching, "changed", label="matching instability", color="tab:gray", linestyle=":"
    )
    for axis, title in ((losses, "loss"), (rate, "learning rate"), (quality, "AP")):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    quality.set_ylim(0, 1)
    for axis in (losses, quality):
        if axis.lines:
            axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(str(folder))
    figure.tight_layout()
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    return path


def _draw_losses(
    axis: Any, training: list[dict[str, Any]], validated: list[dict[str, Any]]
) -> None:
    for term in training[0] if training else ():
        if term not in NO_TERMS:
            _line(axis, training, term, linewidth=2 if term == "loss" else 1)
    if validated:
        _line(axis, validated, "loss", label="validation loss", linestyle="--", marker="o")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _line(axis: Any, lines: list[dict[str, Any]], key: str, **style: Any) -> None:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    if points:
        style.setdefault("label", key)
        axis.plot(*zip(*points, strict=True), **style)
