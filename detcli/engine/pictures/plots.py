"""Pictures of an evaluation, and `save_figures`, which writes them as PNG and SVG.

Readable in black and white: line styles, markers, hatching and labels carry what colours carry.
matplotlib is imported when something is drawn, and only its object interface, so that no window
system and no global state is involved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detcli.engine.pictures.plot_labels import place_labels
from detcli.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from detcli.evaluation.calibration import Calibration
    from detcli.evaluation.confusion import ConfusionMatrix
    from detcli.evaluation.curves import Curves
    from detcli.evaluation.errors import ErrorReport

# Six of each. Colours after Okabe and Ito: distinct to colour-blind eyes, dark enough on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56799E", "#8C6D00")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_HATCHES = ("", "///", "...", "xx", "\\\\\\", "++")
_MOST_CURVES = 6  # per panel: more styles than that cannot be told apart
_MOST_CLASSES = 25  # of a confusion matrix: more numbers than that cannot be read


class TimedAP(NamedTuple):
    """A method in plot_ap_against_time; low and high: interval of AP, if known."""

    method: str
    ms_per_image: float
    AP: float
    low: float | None = None
    high: float | None = None


class Interval(NamedTuple):
    """A row of plot_differences; None where a difference is not defined."""

    label: str
    mean: float | None
    low: float | None
    high: float | None


def plot_precision_recall(curves: Curves) -> Figure:
    """Mean curve at each IoU threshold, and the classes at the first of them.

    A marker shows where F1 is largest. Of more than six classes the three best and three worst
    stand out among the others in grey.
    """
    figure = _figure(9.0, 5.0)
    mean, classes = figure.subplots(1, 2, sharey=True)
    for t, threshold in enumerate(curves.iou_thresholds):
        if not np.isnan(curves.mean_precision[t]).any():
            label = f"IoU {threshold:.2f}: AP {curves.mean_precision[t].mean():.3f}"
            mean.plot(curves.recall, curves.mean_precision[t], label=label, **_line(t))
    mean.set_title("mean over classes", size=10)
    ap = curves.precision[:, 0].mean(1)
    order = np.argsort(-ap, kind="stable")
    order = order[~np.isnan(ap[order])]
    half = _MOST_CURVES // 2
    shown = order if len(order) <= _MOST_CURVES else np.append(order[:half], order[-half:])
    for label in np.setdiff1d(order, shown):
        classes.plot(curves.recall, curves.precision[label, 0], color="0.8", linewidth=0.8)
    for n, label in enumerate(shown):
        name = f"{_shortened(curves.class_names[label])}: AP {ap[label]:.3f}"
        classes.plot(curves.recall, curves.precision[label, 0], label=name, **_line(n))
        best = curves.best_recall[label, 0], curves.best_precision[label, 0]
        classes.plot(
            *best, _MARKERS[n], color=COLOURS[n], markeredgecolor="black", zorder=3, clip_on=False
        )
    classes.set_title(f"classes at IoU {curves.iou_thresholds[0]:.2f}, marker: largest F1", size=10)
    for axis in (mean, classes):
        _dress(axis)
    mean.set_ylabel("precision")
    return figure


def plot_mean_curves(curves: Mapping[str, Curves]) -> Figure:
    """Mean curve of several systems over each other, a panel for each IoU threshold.

    All systems have the same thresholds.
    """
    thresholds = next(iter(curves.values())).iou_thresholds if curves else (0.5,)
    figure = _figure(4.6 * len(thresholds), 5.0)
    panels = figure.subplots(1, len(thresholds), sharey=True, squeeze=False)[0]
    for t, (axis, threshold) in enumerate(zip(panels, thresholds, strict=True)):
        for n, (name, system) in enumerate(curves.items()):
            mean = system.mean_precision[t]
            if not np.isnan(mean).any():
                label = f"{_shortened(name)}: {mean.mean():.3f}"
                # The line styles move on by one after each round of colours.
                axis.plot(system.recall, mean, label=label, **_line(n, n + n // 6))
        axis.set_title(f"IoU {threshold:.2f}, mean over classes", size=10)
        _dress(axis)
    panels[0].set_ylabel("precision")
    return figure


def _dress(axis: Any) -> None:
    """What every panel of precision against recall has."""
    axis.set(xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(
            fontsize=8,
            handlelength=4,
            ncols=2,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.13),
        )


def plot_ap_against_time(rows: Sequence[TimedAP], *, time: str = "ms per image") -> Figure:
    """AP of each method against its time per image, with intervals where they are known.

    time: what the axis of time says.

    The time axis is logarithmic where times differ more than tenfold. Raises UsageError on a time
    that is not above 0.
    """
    for row in rows:
        if not row.ms_per_image > 0:
            raise UsageError(f"{row.method}: expected a time above 0 ms, got {row.ms_per_image}")
    figure = _figure(7.2, 4.6)
    axis = figure.subplots()
    for n, row in enumerate(rows):
        # The markers move on by one after each round of colours.
        colour, marker = COLOURS[n % 6], _MARKERS[(n + n // 6) % 6]
        if row.low is not None and row.high is not None:
            axis.vlines(row.ms_per_image, row.low, row.high, color=colour, alpha=0.6)
        axis.plot(
            [row.ms_per_image],
            [row.AP],
            marker,
            color=colour,
            markersize=7,
            markeredgecolor="black",
            zorder=5,
        )
    times = [row.ms_per_image for row in rows]
    if times and max(times) > 10 * min(times):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    axis.margins(x=0.12, y=0.12)
    known = any(row.low is not None and row.high is not None for row in rows)
    axis.set(xlabel=time, ylabel="AP (line: 95 % interval)" if known else "AP")
    axis.grid(alpha=0.3)
    points = [(row.ms_per_image, row.AP) for row in rows]
    place_labels(figure, axis, points, [row.method for row in rows])
    return figure


def plot_confusion(matrix: ConfusionMatrix) -> Figure:
    """Counts by class of the object (rows) and of the detection (columns), shaded by row.

    Of more than 25 classes, those with the most pairs of different classes are shown.
    """
    num_classes = len(matrix.class_names)
    pairs = matrix.counts[:-1, :-1]
    mixed = pairs.sum(0) + pairs.sum(1) - 2 * np.diag(pairs)
    chosen = np.sort(np.argsort(-mixed, kind="stable")[:_MOST_CLASSES])
    kept = np.append(chosen, num_classes)
    share = matrix.counts / np.maximum(matrix.counts.sum(1, keepdims=True), 1)
    counts, share = matrix.counts[np.ix_(kept, kept)], share[np.ix_(kept, kept)]
    names = [_shortened(matrix.class_names[label]) for label in chosen]
    side = max(3.2, 0.42 * len(kept))
    figure = _figure(side + 2.0, side + 1.4)
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Greys", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.55 else "black"
            axis.text(column, row, f"{count}", color=colour, size=7, ha="center", va="center")
    ticks = range(len(kept))
    axis.set_xticks(ticks, [*names, "missed"], rotation=45, ha="right", size=8)
    axis.set_yticks(ticks, [*names, "background"], size=8)
    for edge in (axis.axhline, axis.axvline):
        edge(len(kept) - 1.5, color="black", linewidth=0.8)
    title = f"score ≥ {matrix.score_threshold:g}, IoU ≥ {matrix.iou_threshold:g}"
    if len(chosen) < num_classes:
        title += f"; {len(chosen)} most confused of {num_classes} classes"
    axis.set(xlabel="predicted class", ylabel="ground-truth class")
    axis.set_title(title, size=9)
    figure.colorbar(image, ax=axis, fraction=0.03, pad=0.02, label="fraction of the row")
    return figure


def plot_errors(reports: Mapping[str, ErrorReport]) -> Figure:
    """AP50 that each kind of error costs, for one system or several side by side."""
    systems = list(reports.items())
    kinds = [*systems[0][1].cost, *systems[0][1].special] if systems else []
    height = 0.8 / max(len(systems), 1)
    figure = _figure(7.2, 1.4 + len(kinds) * max(0.36, 0.24 * len(systems)))
    axis = figure.subplots()
    for n, (name, report) in enumerate(systems):
        gains = {**report.cost, **report.special}
        for position, kind in enumerate(kinds):
            gain, count = gains[kind], report.count.get(kind)
            y = position + (n - (len(systems) - 1) / 2) * height
            axis.barh(
                y,
                gain or 0.0,
                0.88 * height,
                edgecolor=COLOURS[n % 6],
                linewidth=1.2,
                facecolor="white" if n % 6 else COLOURS[0],
                hatch=_HATCHES[n % 6],
                label=name if position == 0 else None,
            )
            text = "not defined" if gain is None else f"{gain:.3f}"
            text += "" if count is None else f"  ({count})"
            axis.annotate(
                text, (gain or 0.0, y), (4, 0), textcoords="offset points", va="center", size=8
            )
    axis.set_yticks(range(len(kinds)), kinds)
    axis.invert_yaxis()
    if systems:
        axis.axhline(len(systems[0][1].cost) - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    axis.margins(x=0.18, y=0.02)
    axis.set(xlabel="AP50 gain if fixed (number of errors)", xlim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    if len(systems) > 1:
        axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)
    elif systems and systems[0][1].AP50 is not None:
        axis.set_title(f"{systems[0][0]}: AP50 {systems[0][1].AP50:.3f}", size=10)
    return figure


def plot_reliability(calibration: Calibration) -> Figure:
    """Precision of each bin of score beside the diagonal, and how many detections it holds."""
    figure = _figure(5.0, 5.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges, width = calibration.edges[:-1], np.diff(calibration.edges)
    filled = calibration.count > 0
    above.bar(
        edges[filled],
        calibration.precision[filled],
        width[filled],
        align="edge",
        facecolor="#BBD3E8",
        edgecolor="black",
        linewidth=0.8,
        label="precision",
    )
    above.plot([0, 1], [0, 1], color="black", linestyle="--", label="perfect calibration")
    above.plot(
        calibration.mean_score[filled],
        calibration.precision[filled],
        "D",
        color="#D55E00",
        markeredgecolor="black",
        markersize=5,
        label="bin, at its mean score",
        clip_on=False,
        zorder=3,
    )
    error = "none" if calibration.error is None else f"{calibration.error:.3f}"
    title = f"IoU {calibration.iou_threshold:.2f}, expected calibration error {error}"
    above.set_title(title, size=10)
    above.set(ylabel="precision", xlim=(0, 1), ylim=(0, 1.0))
    figure.legend(fontsize=8, ncols=3, frameon=False, loc="outside lower center")
    below.bar(
        edges,
        calibration.count,
        width,
        align="edge",
        facecolor="0.8",
        edgecolor="black",
        linewidth=0.8,
    )
    if (calibration.count > 0).any():
        below.set_yscale("log")
        below.set_ylim(0.5, None)
    below.set(xlabel="score", ylabel="detections")
    for axis in (above, below):
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure


def plot_differences(rows: Sequence[Interval], *, title: str = "AP - AP of the baseline") -> Figure:
    """Differences with their intervals, one per line; filled where the interval is clear of 0."""
    figure = _figure(7.2, 1.3 + 0.32 * max(len(rows), 1))
    axis = figure.subplots()
    axis.axvline(0.0, color="0.4", linewidth=1, linestyle="--")
    for y, row in enumerate(rows):
        text = "not defined"
        if row.mean is not None and row.low is not None and row.high is not None:
            clear = row.low > 0 or row.high < 0
            axis.plot([row.low, row.high], [y, y], color="black", linewidth=1.4, marker="|")
            axis.plot(
                [row.mean],
                [y],
                "o" if clear else "s",
                color="black",
                markersize=6,
                markerfacecolor="black" if clear else "white",
                zorder=3,
            )
            text = f"{row.mean:+.4f}  [{row.low:+.4f}, {row.high:+.4f}]"
        axis.annotate(
            text,
            (1.02, y),
            xycoords=("axes fraction", "data"),
            va="center",
            size=8,
            family="monospace",
            annotation_clip=False,
        )
    axis.set_yticks(range(len(rows)), [_shortened(row.label, 40) for row in rows], size=9)
    axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel(f"{title} (95 % interval)", size=9)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    return figure


def save_figures(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write each figure under its name, as PNG and SVG."""
    from matplotlib import rc_context

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        # No date and no random ids: the same figures give the same file.
        for suffix, metadata in ((".png", None), (".svg", {"Date": None})):
            written.append(folder / f"{name}{suffix}")
            with rc_context({"svg.hashsalt": "detcli"}):
                figure.savefig(written[-1], metadata=metadata, bbox_inches="tight")
            figure.set_layout_engine("none")  # as laid out for the first file
    return written


def _figure(width: float, height: float) -> Figure:
    """An empty figure, inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _line(colour: int, style: int | None = None) -> dict[str, Any]:
    return {
        "color": COLOURS[colour % 6],
        "linestyle": STYLES[(colour if style is None else style) % 6],
    }


def _shortened(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
