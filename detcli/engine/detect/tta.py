"""What `detcli tta` does: several views of every image, merged, compared with the plain view."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detcli.data.records import Records
from detcli.engine.detect.load import Trained
from detcli.engine.detect.views import PLAIN, Seen, View, doubts, look
from detcli.engine.run.build import read_split
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.run.methods import MethodSpec, postprocess, shared_options
from detcli.engine.run.predictions import GROUND_TRUTH, write_measured
from detcli.evaluation import CocoMetrics, Difference, bootstrap, coco_metrics, match
from detcli.evaluation.report import difference_cells, difference_json, format_value
from detcli.postprocess import fuses, join_models
from detcli.recipe import Recipe
from detcli.types import Detections

_SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class TtaRow:
    """One view by itself, or all of them merged; seconds: for the whole split."""

    name: str
    detections: Detections
    seconds: float
    result: CocoMetrics

    @property
    def images_per_s(self) -> float:
        return self.detections.num_images / self.seconds


@dataclass(frozen=True)
class TtaResult:
    """seen and views: the plain view first, then each other one; gain: metric -> merged minus
    plain; notes: what a reader should know."""

    records: Records
    seen: tuple[Seen, ...]
    views: tuple[TtaRow, ...]
    merged: TtaRow
    gain: dict[str, Difference]
    notes: tuple[str, ...]

    @property
    def plain(self) -> TtaRow:
        return self.views[0]


def augment_at_test_time(
    trained: Trained,
    split: str,
    views: Sequence[View],
    merge: MethodSpec,
    ranks: Ranks,
    log: RunLog,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> TtaResult | None:
    """Look at a split in every view, measure each alone and all merged; None on ranks but 0.

    The plain view is always looked at, and merged if it is among `views`. Raises UsageError for a
    view that cannot give right answers.
    """
    notes = list(doubts(trained.recipe, trained.class_names, views))
    for note in notes:
        log.say(note)
    records = read_split(trained.recipe, split, trained.class_names)
    seen: list[Seen] = []
    for view in dict.fromkeys((PLAIN, *views)):
        found = look(trained, records, view, ranks, log)
        if found is not None:
            # A method that cannot work says so before the long part.
            merge.apply(found.candidates.take_images(np.arange(min(1, len(records)))))
            seen.append(found)
    if not seen:
        return None
    detections = [postprocess(found.candidates, trained.recipe.postprocess) for found in seen]
    together = [index for index, found in enumerate(seen) if found.view in views]
    started = time.perf_counter()
    merged = _merge([seen[i] for i in together], [detections[i] for i in together], merge, trained)
    seconds = time.perf_counter() - started + sum(seen[index].seconds for index in together)

    truth = records.ground_truth()
    tables = [match(truth, found) for found in (*detections, merged)]
    rows = [
        TtaRow(name, found, duration, coco_metrics(truth, found, table))
        for name, found, duration, table in zip(
            [*(found.view.name for found in seen), f"merged by {merge.label}"],
            [*detections, merged],
            [*(found.seconds for found in seen), seconds],
            tables,
            strict=True,
        )
    ]
    with log.bar("bootstrap", resamples, unit="resamples") as advance:
        gain = bootstrap(
            truth,
            [tables[0], tables[-1]],
            metrics=_SHOWN,
            resamples=resamples,
            seed=seed,
            progress=advance,
        ).differences[1]
    return TtaResult(records, tuple(seen), tuple(rows[:-1]), rows[-1], gain, tuple(notes))


def _merge(
    seen: Sequence[Seen], detections: Sequence[Detections], merge: MethodSpec, trained: Trained
) -> Detections:
    """The views as the models of an ensemble; fusing methods get each view's detections."""
    # Among the raw candidates of one view every object has dozens of boxes, and a method that
    # fuses would average their scores.
    tables = detections if fuses(merge.name) else [found.candidates for found in seen]
    shared = shared_options(trained.recipe.postprocess)
    return merge.among(num_models=len(tables), **shared).apply(join_models(tables))


HEADER = ("view", *_SHOWN, "images/s")


def table_rows(found: TtaResult) -> list[list[str]]:
    """One row of text per view and one of them merged, columns as in HEADER."""
    return [
        [
            row.name,
            *(format_value(row.result.metrics[name]) for name in _SHOWN),
            f"{row.images_per_s:.2f}",
        ]
        for row in (*found.views, found.merged)
    ]


GAIN_HEADER = ("metric", "plain", "merged", "gain", "95 % interval", "p")


def gain_rows(found: TtaResult) -> list[list[str]]:
    """One row of text per metric, columns as in GAIN_HEADER."""
    plain, merged = found.plain.result.metrics, found.merged.result.metrics
    return [
        [name, format_value(plain[name]), format_value(merged[name]), *difference_cells(delta)]
        for name, delta in found.gain.items()
    ]


def to_json(found: TtaResult) -> dict[str, Any]:
    """The document of `tta --json`."""
    return {
        "rows": [
            {"view": row.name, **row.result.metrics, "images_per_s": row.images_per_s}
            for row in (*found.views, found.merged)
        ],
        "plain": found.plain.result.metrics,
        "merged": found.merged.result.metrics,
        "gain": {name: difference_json(delta) for name, delta in found.gain.items()},
        "cost": {
            "plain_images_per_s": found.plain.images_per_s,
            "merged_images_per_s": found.merged.images_per_s,
            "times_slower": found.plain.images_per_s / found.merged.images_per_s,
        },
        "images": len(found.records),
        "notes": list(found.notes),
    }


def write_files(folder: Path, recipe: Recipe, found: TtaResult, *, save_views: bool) -> list[Path]:
    """Write the merged detections and the plain ones, and on request each view's candidates."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GROUND_TRUTH).unlink(missing_ok=True)  # of an earlier run on other data
    files: list[tuple[str, Detections, Literal["detections", "candidates"]]] = [
        ("predictions.json", found.merged.detections, "detections"),
        ("plain.json", found.plain.detections, "detections"),
    ]
    if save_views:
        files += [
            (f"{seen.view.name.replace(' ', '_')}.npz", seen.candidates, "candidates")
            for seen in found.seen
        ]
    return [
        write_measured(folder, name, detections, found.records, recipe, kind)
        for name, detections, kind in files
    ]
