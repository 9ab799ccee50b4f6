"""Learning-rate range test: the loss while the rate grows exponentially (Smith 2017).

The rate grows by the same factor from step to step, as most programs do it since; Smith's own
grows linearly. Everything else is what training does: loader, augmentation, precision, clipping.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detcli.engine.run import distributed, run_folder
from detcli.engine.run.batch import network_input
from detcli.engine.run.log import RunLog
from detcli.engine.train.averaging import Averages
from detcli.engine.train.build import optimizer_of, prepare, scaler_of
from detcli.engine.train.loop import endless_batches
from detcli.engine.train.step import compute_losses, ends_step, group_size, seed_step, take_step
from detcli.engine.train.trainer import Network, Position, Trainer
from detcli.errors import DivergedError, UsageError
from detcli.files import write_atomically
from detcli.recipe import Recipe, override_recipe
from detcli.types import Batch

if TYPE_CHECKING:
    from detcli.types import FloatArray

DIVERGED = 4.0  # times the lowest loss
MEMORY = 0.9  # of the running mean that decides whether the loss has diverged
SMOOTH_STEPS = 0.05  # of all steps: deviation of the weights behind the smoothed curve


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw; S steps.

    lrs (S,): the rate that each step was taken with; losses (S,): the loss of its batch before
    the step; smoothed (S,): losses averaged over neighbours, without delay; steepest: the rate
    where that falls fastest per factor of the rate, None where it never falls; diverged_at: the
    rate at which the test had to end, None if it took all steps; batch: images per step.
    """

    lrs: FloatArray
    losses: FloatArray
    smoothed: FloatArray
    steepest: float | None
    diverged_at: float | None
    batch: int
    reason: str

    @property
    def lowest(self) -> float:
        """The rate where the smoothed loss is lowest: useful rates end there or before."""
        return float(self.lrs[int(np.argmin(self.smoothed))])

    @property
    def tenth(self) -> float | None:
        """A tenth of the rate at which the loss diverged."""
        return None if self.diverged_at is None else self.diverged_at / 10

    @property
    def suggestion(self) -> float | None:
        """The smaller of `steepest` and `tenth`, of those there are."""
        return min((rate for rate in (self.steepest, self.tenth) if rate is not None), default=None)


def run(
    recipe: Recipe,
    gpus: int,
    plan: tuple[int, float, float],
    device: str | None,
    out: Path | None,
    *,
    quiet: bool,
) -> tuple[RangeTest, list[Path]]:
    """Prepare a recipe as `train` does, run the range test and write its files.

    The test runs in one process; accumulation stands in for the other `gpus`, so the batch is
    theirs. plan: steps, first and last rate. Raises UsageError under torchrun and for an `out`
    that is not empty.
    """
    ranks = distributed.start(device)
    if ranks.world_size > 1:
        raise UsageError(f"--find runs in one process, not in {ranks.world_size}; name --gpus N")
    batches = gpus * recipe.train.accumulate
    trial = override_recipe(recipe, [f"train.accumulate={batches}"], recipe.name)
    steps, min_lr, max_lr = plan
    folder = run_folder.create(f"{recipe.name}_lr_find", out)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = prepare(trial, Path(scratch), ranks, RunLog(quiet=quiet), explicit_lr=False)
        found = range_test(trainer, steps=steps, min_lr=min_lr, max_lr=max_lr)
    return found, write_files(folder, found)


def range_test(trainer: Trainer, *, steps: int, min_lr: float, max_lr: float) -> RangeTest:
    """Train a copy of the trainer's model for `steps` steps at rates from `min_lr` to `max_lr`.

    Ends early when the running mean of the loss exceeds four times its minimum, or the loss or
    the norm of its gradient is not finite. The trainer's model, optimiser and position stay as
    they are. Raises DivergedError where the first loss is not finite.
    """
    trial = _trial(trainer)
    batches = endless_batches(trial)
    planned = np.geomspace(min_lr, max_lr, steps)
    losses: list[float] = []
    total, lowest = 0.0, math.inf
    diverged_at, reason = None, f"all {steps} steps were taken"
    with trainer.run.log.bar("range test", steps, unit="steps") as advance:
        for count, lr in enumerate(planned.tolist(), start=1):
            loss = _step(trial, batches, lr)
            if not math.isfinite(loss) and not losses:
                raise DivergedError(
                    "range test: the loss or its gradient is not finite before the first step, so "
                    "the rate is not the cause; `detcli train RECIPE --dry-run` shows the terms"
                )
            if not math.isfinite(loss):
                diverged_at, reason = lr, f"the loss or its gradient was not finite at {lr:.3g}"
                break
            losses.append(loss)
            total = MEMORY * total + (1 - MEMORY) * loss
            mean = total / (1 - MEMORY**count)
            lowest = min(lowest, mean)
            if mean > DIVERGED * lowest:
                diverged_at = lr
                reason = f"the loss exceeded {DIVERGED:g} times its minimum at {lr:.3g}"
                break
            advance(1)
    lrs = planned[: len(losses)]
    # One explosion at the end must not reach back over its neighbours.
    bounded = np.minimum(losses, DIVERGED * lowest)
    smoothed = smooth(bounded, width=max(1.0, SMOOTH_STEPS * steps))
    batch = trial.learning_rate.batch
    return RangeTest(
        lrs, np.array(losses), smoothed, steepest_descent(lrs, smoothed), diverged_at, batch, reason
    )


def _trial(trainer: Trainer) -> Trainer:
    """A trainer like this one at its start, over a copy of the model, at a constant rate."""
    recipe = trainer.run.recipe
    detector = copy.deepcopy(trainer.network.detector).train()
    optimizer = optimizer_of(recipe, detector, trainer.learning_rate.lr)
    constant = {"name": "step", "milestones": (), "warmup": "none"}
    options = recipe.schedule.model_copy(update=constant)
    return replace(
        trainer,
        # Without a teacher: the rate is sought for the detector's own losses.
        network=Network(detector, detector, None, optimizer, scaler_of(trainer.run)),
        averages=Averages(),
        schedule=replace(trainer.schedule, options=options, averaging=None),
        position=Position(),
    )


def _step(trial: Trainer, batches: Iterator[Batch], lr: float) -> float:
    """One optimiser step at this rate; the loss before it, NaN where the step was impossible."""
    trial.learning_rate = replace(trial.learning_rate, lr=lr)
    recipe, network, loss = trial.run.recipe, trial.network, 0.0
    for batch in batches:
        images, targets = network_input(recipe, batch, trial.run.ranks.device)
        seed_step(trial)
        at_step = ends_step(trial)
        terms = compute_losses(recipe, network, images, targets)
        part = torch.stack(list(terms.values())).sum() / group_size(trial)
        loss += part.item()
        if not math.isfinite(loss):
            break
        network.scaler.scale(part).backward()  # type: ignore[no-untyped-call]
        trial.position.batch += 1
        if at_step:
            try:
                take_step(trial)
            except DivergedError:  # clipping met a gradient that is not finite
                return math.nan
            break
    return loss


def smooth(values: FloatArray, width: float) -> FloatArray:
    """(S,) values averaged over their neighbours with Gaussian weights of this standard
    deviation, in steps; at the ends over the neighbours there are."""
    reach = math.ceil(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    inside = slice(reach, reach + len(values))
    weights = np.convolve(np.ones(len(values)), kernel)[inside]
    averaged: FloatArray = np.convolve(values, kernel)[inside] / weights
    return averaged


def steepest_descent(lrs: FloatArray, smoothed: FloatArray) -> float | None:
    """The rate up to the minimum where the loss falls fastest over the logarithm of the rate;
    None where it does not fall."""
    if len(lrs) < 2:
        return None
    slope = np.gradient(smoothed, np.log(lrs))[: int(np.argmin(smoothed)) + 1]
    at = int(np.argmin(slope))
    return float(lrs[at]) if slope[at] < 0 else None


def sentences(found: RangeTest) -> list[str]:
    """What the test says, for a reader."""
    rates = {"steepest descent": found.steepest, "a tenth of the divergence point": found.tenth}
    said = [f"{name} {'none' if lr is None else f'{lr:.3g}'}" for name, lr in rates.items()]
    said.append(f"lowest loss at {found.lowest:.3g}")
    if found.lowest == found.lrs[-1]:
        said[-1] += ", the last rate: raise --max-lr"
    heard = f"range test: {found.reason}; {', '.join(said)}"
    if found.suggestion is None:
        return [heard, "nothing to suggest: the loss neither fell nor diverged; widen the range"]
    chosen = next(name for name, lr in rates.items() if lr == found.suggestion)
    return [
        heard,
        f"suggested: {found.suggestion:.2g} ({chosen}) at {found.batch} images per step; "
        f"train with optim.lr={found.suggestion:.2g}, or scale it with "
        f"--base-lr {found.suggestion:.2g} --base-batch {found.batch}",
    ]


def to_json(found: RangeTest) -> dict[str, Any]:
    """The summary and the curve as plain values."""
    return {
        "suggestion": found.suggestion,
        "steepest": found.steepest,
        "tenth_of_divergence": found.tenth,
        "diverged_at": found.diverged_at,
        "lowest_at": found.lowest,
        "batch": found.batch,
        "reason": found.reason,
        "lr": found.lrs.tolist(),
        "loss": found.losses.tolist(),
        "smoothed": found.smoothed.tolist(),
    }


def write_files(folder: Path, found: RangeTest) -> list[Path]:
    """lr_find.json, .csv, .png and .svg."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"lr_find{suffix}" for suffix in (".json", ".csv", ".png", ".svg")]
    write_atomically(paths[0], json.dumps(to_json(found), indent=1, allow_nan=False))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("lr", "loss", "smoothed"))
    writer.writerows(zip(*(to_json(found)[key] for key in ("lr", "loss", "smoothed")), strict=True))
    write_atomically(paths[1], text.getvalue())
    for path in paths[2:]:
        _plot(found, path)
    return paths


def _plot(found: RangeTest, path: Path) -> None:
    """Loss over the rate, with the rates that `sentences` names; lines differ in style too."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), dpi=130, layout="constrained")
    axis = figure.subplots()
    axis.plot(found.lrs, found.losses, ".", color="0.65", markersize=4, label="loss of a batch")
    axis.plot(found.lrs, found.smoothed, color="#0072B2", linewidth=1.8, label="smoothed")
    axis.plot(
        found.lowest,
        found.smoothed.min(),
        "v",
        color="black",
        markersize=8,
        zorder=3,
        label=f"lowest loss: {found.lowest:.2g}",
    )
    marks = (
        ("steepest descent", found.steepest, "#D55E00", "--"),
        ("a tenth of the divergence point", found.tenth, "#009E73", "-."),
        ("divergence", found.diverged_at, "black", ":"),
    )
    for name, lr, colour, style in marks:
        if lr is not None:
            label = f"{name}: {lr:.2g}"
            axis.axvline(lr, color=colour, linestyle=style, linewidth=1.5, label=label)
    top = 1.5 * found.smoothed.max(initial=0.0) or 1.0
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0, top))
    axis.set_title(f"{found.batch} images per step; {found.reason}", size=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    # No date and no random ids: the same test gives the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"svg.hashsalt": "detcli"}):
        figure.savefig(path, metadata=metadata, bbox_inches="tight")
