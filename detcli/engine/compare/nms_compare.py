"""What `detcli nms-compare` does: the same candidates through several methods, compared with one
another. Never imports torch."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from detcli.engine.compare.sweep import halves, num_trials, sweep
from detcli.engine.run.log import RunLog
from detcli.engine.run.methods import MethodSpec
from detcli.evaluation import (
    CocoMetrics,
    Difference,
    Estimate,
    MatchTable,
    bootstrap,
    coco_metrics,
    match,
)
from detcli.postprocess import join_models
from detcli.predictions.with_truth import PredictionFiles
from detcli.types import Detections, GroundTruth

NMS = "nms"  # its time is the unit of every other method's
_TIMED_SECONDS = 0.05  # a method is run again until this much time has been measured
_TIMED_RUNS = 3


@dataclass(frozen=True)
class MethodResult:
    """What one method made of the candidates.

    ms_per_image: suppression alone, the best of up to three runs; result and table: None without
    ground truth; estimate: AP with its interval, delta: its difference to the baseline, None
    without a bootstrap.
    """

    spec: MethodSpec
    detections: Detections
    ms_per_image: float
    result: CocoMetrics | None = None
    table: MatchTable | None = None
    estimate: Estimate | None = None
    delta: Difference | None = None

    @property
    def boxes_per_image(self) -> float:
        return len(self.detections.scores) / self.detections.num_images


@dataclass(frozen=True)
class Comparison:
    """Rows in the order asked for; baseline and nms: their positions; ground_truth: what the rows
    were measured on, one half of the images after a sweep; notes: what a reader should know."""

    rows: tuple[MethodResult, ...]
    baseline: int
    nms: int
    ground_truth: GroundTruth
    notes: tuple[str, ...]


def compare_methods(
    files: PredictionFiles,
    specs: Sequence[MethodSpec],
    baseline: int,
    log: RunLog,
    *,
    choose_thresholds: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Run every method over the candidates of all files and measure the results.

    Several files are an ensemble. One of `specs` is nms. choose_thresholds: each method's threshold
    is chosen on one half of the images, and everything else happens on the other half. Without
    ground truth, only sizes and times.
    """
    candidates = files.tables[0] if len(files.tables) == 1 else join_models(files.tables)
    truth = files.ground_truth
    notes = [*_says_none(files), *_moot(files, candidates)]
    if choose_thresholds:
        first, second = halves(truth.num_images, seed)
        with log.bar("sweep", num_trials(specs), unit="trials") as advance:
            swept = sweep(candidates.take_images(first), truth.take_images(first), specs, advance)
        notes += [choice.sentence(len(first)) for choice in swept]
        specs = [choice.spec for choice in swept]
        candidates, truth = candidates.take_images(second), truth.take_images(second)
    rows = run_methods(candidates, specs, log)
    if files.annotations is not None:
        rows = _judge(rows, truth, baseline, resamples, seed, log)
    nms = next(index for index, spec in enumerate(specs) if spec.name == NMS)
    return Comparison(tuple(rows), baseline, nms, truth, tuple(notes))


def run_methods(
    candidates: Detections, specs: Sequence[MethodSpec], log: RunLog
) -> list[MethodResult]:
    """Each method over the whole data set, timed."""
    warm_up = candidates.take_images(np.arange(min(1, candidates.num_images)))
    results = []
    for spec in log.track(specs, "suppress", len(specs), unit="methods"):
        spec.apply(warm_up)  # compiling and loading kernels is not what is compared
        seconds: list[float] = []
        while len(seconds) < _TIMED_RUNS and sum(seconds) < _TIMED_SECONDS:
            started = time.perf_counter()
            detections = spec.apply(candidates)
            seconds.append(time.perf_counter() - started)
        milliseconds = 1000 * min(seconds) / candidates.num_images
        results.append(MethodResult(spec, detections, milliseconds))
    return results


def _judge(
    rows: Sequence[MethodResult],
    truth: GroundTruth,
    baseline: int,
    resamples: int,
    seed: int,
    log: RunLog,
) -> list[MethodResult]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the kernels let go of Python's lock
        matched = pool.map(lambda row: match(truth, row.detections), rows)
        tables = list(log.track(matched, "evaluate", len(rows), unit="methods"))
    judged = [
        replace(row, table=table, result=coco_metrics(truth, row.detections, table))
        for row, table in zip(rows, tables, strict=True)
    ]
    if not resamples:
        return judged
    with log.bar("bootstrap", resamples, unit="resamples") as advance:
        found = bootstrap(
            truth, tables, baseline=baseline, resamples=resamples, seed=seed, progress=advance
        )
    return [
        replace(row, estimate=estimate["AP"], delta=delta["AP"])
        for row, estimate, delta in zip(judged, found.systems, found.differences, strict=True)
    ]


def _says_none(files: PredictionFiles) -> list[str]:
    """What suppression means for detectors that propose each object once."""
    metas = [meta for meta in files.metas if meta is not None and meta.kind == "candidates"]
    names = {str(meta.model) for meta in metas if (meta.postprocess or {}).get("method") == "none"}
    if not names:
        return []
    several = len(files.tables) > 1
    what = (
        "only the boxes of different files are boxes of the same object"
        if several
        else "every method but none only takes boxes of other objects away, or mixes them"
    )
    return [f"{' and '.join(sorted(names))} proposes each object once (method none): {what}"]


def _moot(files: PredictionFiles, candidates: Detections) -> list[str]:
    """A warning where suppression has happened already."""
    threshold = MethodSpec(NMS).params["iou_threshold"]
    if len(files.tables) > 1 or not len(candidates.scores):
        return []
    most = int(np.diff(candidates.offsets).max())
    kept = MethodSpec(NMS, {"max_per_image": most}).apply(candidates)
    if len(kept.scores) < len(candidates.scores):
        return []
    return [
        f"no two boxes of the same image and class overlap by more than {threshold:g}: these "
        "predictions are already suppressed and the comparison is moot; write the boxes before "
        "suppression with `detcli eval --candidates`"
    ]
