"""What `detcli compare` does: two runs, or two predictions files, measured on the same images and
compared with each other. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detcli.engine.pictures.plots import Interval, plot_differences, save_figures
from detcli.engine.run.log import RunLog
from detcli.errors import DataError, UsageError
from detcli.evaluation import (
    OPERATING_METRICS,
    Bootstrap,
    CocoMetrics,
    Difference,
    MatchTable,
    best_score,
    bootstrap,
    coco_metrics,
    match,
    operating_points,
    score_at_recall,
)
from detcli.evaluation.report import difference_cells, difference_json, format_value
from detcli.predictions.with_truth import load_prediction_files
from detcli.recipe import diff_recipes, load_recipe

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
_DETECTIONS = "predictions.json"


@dataclass(frozen=True)
class Side:
    """One of the two: what was typed, its predictions, and its recipe if it is a run."""

    name: str
    predictions: Path
    recipe: Path | None


@dataclass(frozen=True)
class Point:
    """Both sides cut at `scores`, at which each reaches `recall` if that was asked for."""

    scores: tuple[float, float]
    recall: float | None
    found: Bootstrap

    @property
    def label(self) -> str:
        """What the sides have in common: `score 0.300` or `recall 0.500`."""
        return f"score {self.scores[0]:.3f}" if self.recall is None else f"recall {self.recall:.3f}"


@dataclass(frozen=True)
class Compared:
    """Metrics of both sides, the paired differences b - a, and the settings that differ.

    recipe_diff: (key, value in a, value in b), None where not both sides are runs.
    """

    a: Side
    b: Side
    metrics: tuple[CocoMetrics, CocoMetrics]
    differences: Bootstrap
    points: tuple[Point, ...]
    recipe_diff: list[tuple[str, Any, Any]] | None
    images: int

    @property
    def ap_points(self) -> float | None:
        """AP of b minus AP of a, in points (hundredths)."""
        value = self.differences.differences[1]["AP"].value
        return None if value is None else 100 * value


def find_side(target: str) -> Side:
    """A run folder (the detections of its best epoch) or a predictions file."""
    place = Path(target)
    if not place.is_dir():
        if not place.exists():
            raise UsageError(f"{target}: no such run folder or predictions file")
        return Side(target, place, None)
    if not (place / _DETECTIONS).is_file():
        raise DataError(
            f"{target}: no {_DETECTIONS} in this folder; a run writes it with its first "
            f"evaluation, or measure it: detcli eval {target} --out {target}"
        )
    recipe = place / "recipe.yaml"
    return Side(target, place / _DETECTIONS, recipe if recipe.is_file() else None)


def compare(
    a: Side,
    b: Side,
    gt: Path | None,
    log: RunLog,
    *,
    at_scores: Sequence[float | None] = (),
    at_recalls: Sequence[float] = (),
    allow_threshold: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Compared:
    """Measure both sides on the same annotations and resample the images for both alike.

    at_scores: also compare what is left from these scores on; None is the score at which a's F1
    is largest. at_recalls: the same, each side from the score where it finds that fraction of the
    objects. Raises UsageError where the sides belong to different annotations and none are named,
    and on a recall that a side does not reach.
    """
    files = load_prediction_files(
        [a.predictions, b.predictions], gt, allow_threshold=allow_threshold, need_truth=True
    )
    truth = files.ground_truth
    tables = [match(truth, table) for table in files.tables]
    first, second = map(partial(coco_metrics, truth), files.tables, tables)
    with log.bar("bootstrap", resamples, unit="resamples") as advance:
        differences = bootstrap(
            truth,
            tables,
            metrics=METRICS,
            per_class=True,
            resamples=resamples,
            seed=seed,
            progress=advance,
        )
    measure = partial(operating_points, truth, tables, resamples=resamples, seed=seed)
    points = tuple(
        Point(scores, recall, measure(scores=scores))
        for scores, recall in _cuts(tables, at_scores, at_recalls)
    )
    changed = _recipe_diff(a, b)
    return Compared(a, b, (first, second), differences, points, changed, truth.num_images)


def _cuts(
    tables: Sequence[MatchTable], at_scores: Sequence[float | None], at_recalls: Sequence[float]
) -> list[tuple[tuple[float, float], float | None]]:
    """The scores of a and of b, and the recall that they were chosen for."""
    scores = [best_score(tables[0]) if score is None else score for score in at_scores]
    fixed = [((score, score), None) for score in scores]
    even = [
        ((score_at_recall(tables[0], recall), score_at_recall(tables[1], recall)), recall)
        for recall in at_recalls
    ]
    return [*fixed, *even]


def _recipe_diff(a: Side, b: Side) -> list[tuple[str, Any, Any]] | None:
    if a.recipe is None or b.recipe is None:
        return None
    return diff_recipes(load_recipe(a.recipe).recipe, load_recipe(b.recipe).recipe)


METRIC_HEADER = ("metric", "a", "b", "b - a", "95 % interval", "p")


def metric_rows(compared: Compared) -> list[list[str]]:
    """One row of text per metric, columns as in METRIC_HEADER."""
    first, second = (metrics.metrics for metrics in compared.metrics)
    found = compared.differences.differences[1]
    return [_row(name, first[name], second[name], found[name]) for name in METRICS]


def point_rows(compared: Compared) -> list[list[str]]:
    """One row of text per score and figure, columns as in METRIC_HEADER."""
    return [
        _row(
            f"{name.replace('_', ' ')} at {point.label}",
            point.found.systems[0][name].value,
            point.found.systems[1][name].value,
            point.found.differences[1][name],
        )
        for point in compared.points
        for name in OPERATING_METRICS
    ]


def class_rows(compared: Compared) -> list[list[str]]:
    """AP of each class, columns as in METRIC_HEADER."""
    first, second = (metrics.per_class for metrics in compared.metrics)
    return [
        _row(name, first[name]["AP"], second[name]["AP"], delta)
        for name, delta in compared.differences.class_differences[1].items()
    ]


def _row(name: str, a: float | None, b: float | None, delta: Difference) -> list[str]:
    return [name, format_value(a), format_value(b), *difference_cells(delta)]


def verdict(compared: Compared) -> str:
    """One sentence: which is better, and whether the images can tell."""
    delta = compared.differences.differences[1]["AP"]
    if delta.value is None or delta.low is None or delta.high is None:
        return "no annotated objects: no verdict"
    interval = f"{100 * delta.low:+.2f} to {100 * delta.high:+.2f}"
    what = f"b - a: {100 * delta.value:+.2f} AP points, 95 % interval {interval}"
    if delta.low <= 0 <= delta.high:
        return f"{what}: not distinguishable on {compared.images} images"
    return f"{what}: {'b' if delta.value > 0 else 'a'} is better"


def caution(compared: Compared) -> str | None:
    """What the interval between two runs does not cover."""
    if compared.recipe_diff is None:
        return None
    return (
        "the interval is over images and compares these two trained models, not their recipes; "
        "measure the variance of training with other seeds (detcli ablate --seeds 3)"
    )


def to_json(compared: Compared) -> dict[str, Any]:
    """The document of `compare --json`."""
    sides = (compared.a, compared.b)
    found = compared.differences
    return {
        **{
            key: {"name": side.name, "predictions": str(side.predictions), **metrics.metrics}
            for key, side, metrics in zip("ab", sides, compared.metrics, strict=True)
        },
        "delta": {name: difference_json(found.differences[1][name]) for name in METRICS},
        "per_class": {
            name: difference_json(delta) for name, delta in found.class_differences[1].items()
        },
        "points": [_point_json(point) for point in compared.points],
        "recipe_diff": [
            {"key": key, "a": old, "b": new} for key, old, new in compared.recipe_diff or ()
        ],
        "images": compared.images,
        "resamples": found.resamples,
        "seed": found.seed,
    }


def _point_json(point: Point) -> dict[str, Any]:
    found = point.found
    figures = {
        name: {
            **{key: side[name].value for key, side in zip("ab", found.systems, strict=True)},
            "delta": difference_json(found.differences[1][name]),
        }
        for name in OPERATING_METRICS
    }
    scores = dict(zip("ab", point.scores, strict=True))
    return {"at": point.label, "score": scores, "recall_asked": point.recall, **figures}


def write_plots(folder: Path, compared: Compared) -> list[Path]:
    """The differences of every metric and of the AP of every class, as PNG and SVG."""
    found = compared.differences
    rows = [
        Interval(name, delta.value, delta.low, delta.high)
        for name, delta in (
            *found.differences[1].items(),
            *((f"AP of {name}", delta) for name, delta in found.class_differences[1].items()),
        )
    ]
    figure = plot_differences(rows, title=f"b - a on {compared.images} images")
    return save_figures(folder, {"differences": figure})
