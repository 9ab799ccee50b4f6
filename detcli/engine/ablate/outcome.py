"""From finished trials to a table: AP, differences with intervals, spread over seeds, cost.

Letters: K seeds of a system.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detcli.engine.ablate.plan import Plan, System
from detcli.engine.ablate.trial import Trial, read_result
from detcli.engine.run.log import RunLog
from detcli.evaluation import Bootstrap, Difference, bootstrap, match, mean_difference
from detcli.predictions.with_truth import load_prediction_files

LEVEL = 0.95
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


@dataclass(frozen=True)
class Cost:
    """What training cost, mean over seeds: milliseconds per image, of training and of the last
    evaluation (loading and metrics included), peak memory in GiB, and training time in seconds."""

    train_ms_per_image: float
    eval_ms_per_image: float | None
    memory_gib: float
    train_seconds: float


@dataclass(frozen=True)
class Row:
    """A system as measured.

    values: AP of each seed that was trained; metrics: means over them; spread: standard deviation
    of AP over them, None for fewer than two; delta: against `system.against`; seed_margin: half
    the width of the 95 % interval that the spread over seeds alone gives the difference; failed:
    seed -> why; idle: augmentations that never fired.
    """

    system: System
    values: tuple[float, ...]
    metrics: Mapping[str, float | None]
    spread: float | None
    delta: Difference | None
    seed_margin: float | None
    cost: Cost | None
    failed: Mapping[int, str]
    idle: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What can be said about the trick."""
        if not self.values:
            return "failed"
        if self.system.against is None:
            return "baseline"
        delta = self.delta
        if delta is None or delta.value is None or delta.low is None or delta.high is None:
            return "cannot be said"
        if delta.low <= 0 <= delta.high:
            return "not distinguishable"
        if self.seed_margin is not None and abs(delta.value) <= self.seed_margin:
            return "not distinguishable (seeds)"
        found = "helps" if (delta.value > 0) != self.system.removes else "hurts"
        return found if self.seed_margin is not None else f"{found} (one seed)"


@dataclass(frozen=True)
class Outcome:
    """An ablation as it stands. rows: as the plan's systems; images: of the evaluation split."""

    plan: Plan
    rows: tuple[Row, ...]
    images: int
    resamples: int
    notes: tuple[str, ...]

    @property
    def failures(self) -> int:
        return sum(len(row.failed) for row in self.rows)

    def row(self, name: str) -> Row:
        """The row of a system."""
        return next(row for row in self.rows if row.system.name == name)


@dataclass(frozen=True)
class Finished:
    """The trials that came to an end, and what is known of them; found: None without any."""

    trials: Sequence[Trial]
    found: Bootstrap | None
    images: int

    def places(self, system: str | None) -> list[int]:
        """Where the trials of a system stand among them."""
        return [index for index, trial in enumerate(self.trials) if trial.system == system]

    def values(self, name: str, indices: Sequence[int]) -> list[float | None]:
        """A metric of these trials, None where it is not defined."""
        return [self.found.systems[index][name].value for index in indices] if self.found else []


def evaluate_trials(plan: Plan, trials: Sequence[Trial], log: RunLog, resamples: int) -> Outcome:
    """Measure all trials on the same images and resamples.

    Raises DataError where a trial's predictions cannot be used.
    """
    reasons = [(trial, _reason(trial)) for trial in trials]
    finished = _measure([trial for trial, reason in reasons if reason is None], log, resamples)
    pooled = pooled_spread([_aps(finished, system.name) for system in plan.systems])
    rows = []
    for system in plan.systems:
        mine = [(trial, reason) for trial, reason in reasons if trial.system == system.name]
        failed = {trial.seed: reason for trial, reason in mine if reason is not None}
        rows.append(_row(system, finished, pooled, failed))
    return Outcome(plan, tuple(rows), finished.images, resamples, _notes(plan, rows, pooled))


def _measure(done: Sequence[Trial], log: RunLog, resamples: int) -> Finished:
    """Hold the predictions of finished trials against the ground truth."""
    if not done:
        return Finished((), None, 0)
    files = load_prediction_files(
        [trial.predictions for trial in done], None, allow_threshold=False, need_truth=True
    )
    truth = files.ground_truth
    tables = [match(truth, table) for table in files.tables]
    with log.bar("bootstrap", resamples, unit="resamples") as advance:
        found = bootstrap(truth, tables, metrics=METRICS, resamples=resamples, progress=advance)
    return Finished(done, found, truth.num_images)


def _row(
    system: System, finished: Finished, pooled: PooledSpread, failed: Mapping[int, str]
) -> Row:
    mine, theirs = finished.places(system.name), finished.places(system.against)
    aps, trials = _aps(finished, system.name), [finished.trials[index] for index in mine]
    delta = margin = None
    if finished.found is not None and mine and theirs:
        delta = mean_difference(finished.found, "AP", mine, theirs)
        margin = pooled.margin(len(mine), len(theirs))
    return Row(
        system,
        values=tuple(aps),
        metrics={name: _mean(finished.values(name, mine)) for name in METRICS},
        spread=float(np.std(aps, ddof=1)) if len(aps) > 1 else None,
        delta=delta,
        seed_margin=margin,
        cost=mean_cost([read_cost(trial, finished.images) for trial in trials]),
        failed=failed,
        idle=never_fired(trials),
    )


def _aps(finished: Finished, system: str) -> list[float]:
    """(K,) AP of the seeds of a system, 0 where it is not defined."""
    return [value or 0.0 for value in finished.values("AP", finished.places(system))]


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that are defined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


@dataclass(frozen=True)
class PooledSpread:
    """Standard deviation of AP over seeds, taken to be the same for all systems, and its degrees
    of freedom; None without a system of two seeds."""

    deviation: float | None
    freedom: int

    def margin(self, ours: int, theirs: int) -> float | None:
        """Half the 95 % interval of a difference of two means over `ours` and `theirs` seeds that
        Student's t distribution gives."""
        if self.deviation is None:
            return None
        from scipy.stats import t

        quantile = float(t.ppf((1 + LEVEL) / 2, self.freedom))
        return quantile * self.deviation * math.sqrt(1 / ours + 1 / theirs)


def pooled_spread(groups: Sequence[Sequence[float]]) -> PooledSpread:
    """The residual deviation of a one-way analysis of variance; a group holds the AP of each seed
    of a system. Two or three seeds say little about one system, those of all systems say more."""
    several = [np.asarray(group) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return PooledSpread(None, 0)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in several)
    return PooledSpread(math.sqrt(squares / freedom), freedom)


def read_cost(trial: Trial, images: int) -> Cost:
    """What the run's metrics.jsonl says; `images` in the evaluation split."""
    records = _records(trial)
    epochs = [record for record in records if record["kind"] == "epoch"]
    seconds = sum(record["seconds"] for record in epochs)
    evaluations = [record["seconds"] for record in records if record["kind"] == "eval"]
    return Cost(
        train_ms_per_image=1000 * seconds / max(1, sum(record["images"] for record in epochs)),
        eval_ms_per_image=1000 * evaluations[-1] / images if evaluations and images else None,
        memory_gib=max((record["memory_gib"] for record in epochs), default=0.0),
        train_seconds=seconds,
    )


def mean_cost(costs: Sequence[Cost]) -> Cost | None:
    """Of the seeds of a system; the peak of memory is the highest."""
    if not costs:
        return None
    return Cost(
        train_ms_per_image=float(np.mean([cost.train_ms_per_image for cost in costs])),
        eval_ms_per_image=_mean([cost.eval_ms_per_image for cost in costs]),
        memory_gib=max(cost.memory_gib for cost in costs),
        train_seconds=float(np.mean([cost.train_seconds for cost in costs])),
    )


def never_fired(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Augmentations that acted in no epoch of any of the trials."""
    totals: Counter[str] = Counter()
    for record in itertools.chain.from_iterable(map(_records, trials)):
        if record.pop("kind") == "fired":
            del record["epoch"]
            totals.update(record)
    return tuple(name for name, count in totals.items() if count == 0)


def _records(trial: Trial) -> list[dict[str, Any]]:
    path = trial.run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def _reason(trial: Trial) -> str | None:
    result = read_result(trial)
    return "not trained yet" if result is None else result.reason


def _notes(plan: Plan, rows: Sequence[Row], pooled: PooledSpread) -> tuple[str, ...]:
    notes = list(plan.notes)
    for row in rows:
        notes += [f"{row.system.name}, seed {seed}: {why}" for seed, why in row.failed.items()]
        if row.idle:
            notes.append(f"{row.system.name}: {', '.join(row.idle)} was never applied to an image")
    judged = sum(row.delta is not None for row in rows)
    if len(plan.seeds) == 1:
        notes.append(
            "one seed: the intervals are over images and compare these trained models, not the "
            "tricks; measure the variance of training with --seeds 3"
        )
    if pooled.deviation is not None:
        notes.append(
            f"AP varies by {100 * pooled.deviation:.2f} points (standard deviation) between seeds; "
            "'seeds' in a verdict: the difference is within that variation"
        )
    if judged > 1:
        notes.append(
            f"{judged} comparisons at 95 %: expect {0.05 * judged:.2g} false positives by chance"
        )
    return tuple(notes)
