"""Where the time of a training step goes, and what other settings would make of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from detcli.engine.profile.clock import OTHER, Clock
from detcli.engine.profile.cuda import Autotune, largest_batch, measure_autotune, shape_warnings
from detcli.engine.profile.timing import Spread, paired_ratios, spread
from detcli.engine.profile.torch_profiler import forget_peak, write_trace
from detcli.engine.profile.trial import build_trial
from detcli.engine.profile.variants import (
    Subject,
    VariantRow,
    in_turns,
    measure_variants,
    variants_of,
)
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.train.loop import endless_batches, train_batch
from detcli.engine.train.meter import peak_memory_gib
from detcli.engine.train.trainer import Trainer
from detcli.errors import DivergedError, UsageError
from detcli.phases import listening
from detcli.recipe import Recipe
from detcli.types import Batch

HELD = 4  # batches that variants share
FEWEST, MOST = 3, 200  # steps that are timed
DATA_WAIT = "data wait"
ORDER = (
    DATA_WAIT,
    "transfer",
    "forward",
    "assignment",
    "loss",
    "teacher",
    "check",
    "backward",
    "optimiser",
    "ema",
    "logging",
    OTHER,
)


@dataclass(frozen=True)
class StepProfile:
    """A training step: one batch from waiting for it to logging it.

    batch: images; step_ms: the whole step as training takes it; phases_ms: mean of each phase,
    which add up to the mean step; data_wait_share: of the step's time; steps: how many were timed;
    peak_memory_gib: allocated on a CUDA device, else resident in this process without its workers;
    step_memory_gib: the most that a step allocates beyond weights and optimiser state; variants:
    the first row is the recipe's own; largest_batch, cudnn_benchmark: None without CUDA.
    """

    batch: int
    images_per_s: float
    step_ms: Spread
    phases_ms: dict[str, float]
    data_wait_share: float
    steps: int
    peak_memory_gib: float
    step_memory_gib: float
    variants: list[VariantRow]
    largest_batch: int | None
    cudnn_benchmark: Autotune | None
    warnings: list[str]


def measure_step(
    recipe: Recipe,
    ranks: Ranks,
    log: RunLog,
    *,
    seconds: float,
    compile_too: bool = False,
    trace: Path | None = None,
) -> StepProfile:
    """Take training steps of a recipe, on its data, and time their phases and their variants.

    seconds: about how long the steps, and then each variant, are timed. Raises what `prepare`
    raises, and UsageError.
    """
    with tempfile.TemporaryDirectory() as scratch, cudnn_restored():
        trainer = build_trial(recipe, Path(scratch), ranks)
        batches = endless_batches(trainer)
        clock, step_seconds = timed_steps(trainer, batches, log, seconds=seconds)
        peak = peak_memory_gib(ranks.device)
        held = list(islice(batches, HELD))
        if trace is not None:
            write_trace(trainer, batches, trace)
        base = Subject("base", trainer, held, torch.backends.cudnn.benchmark)
        found = variants_of(
            trainer.run.recipe, ranks.device, benchmark=base.benchmark, compile_too=compile_too
        )
        rows = measure_variants(base, list(found), log, seconds=seconds)
        phases = in_order(clock.phases_ms())
        memory = rows[0].step_memory_gib
        assert memory is not None, "the base always runs"
        return StepProfile(
            batch=recipe.data.batch_per_rank,
            images_per_s=recipe.data.batch_per_rank * len(step_seconds) / sum(step_seconds),
            step_ms=spread([value * 1e3 for value in step_seconds]),
            phases_ms=phases,
            data_wait_share=phases[DATA_WAIT] / sum(phases.values()),
            steps=len(step_seconds),
            peak_memory_gib=peak,
            step_memory_gib=memory,
            variants=rows,
            largest_batch=largest_batch(trainer),
            cudnn_benchmark=measure_autotune(trainer),
            warnings=shape_warnings(recipe, trainer.data.train_records)
            + queue_warnings(recipe, len(step_seconds)),
        )


def compare_steps(
    first: Recipe, second: Recipe, ranks: Ranks, log: RunLog, *, seconds: float
) -> Spread:
    """Time of a step of the second recipe over that of the first, without waiting for data; each
    on batches of its own, in turns."""
    with tempfile.TemporaryDirectory() as scratch, cudnn_restored():
        subjects = []
        for name, recipe in (("first", first), ("second", second)):
            trainer = build_trial(recipe, Path(scratch), ranks)
            held = list(islice(endless_batches(trainer), HELD))
            subjects.append(Subject(name, trainer, held, torch.backends.cudnn.benchmark))
            subjects[-1].warm_up()
        return paired_ratios(*in_turns(subjects, log, seconds=seconds))


def timed_steps(
    trainer: Trainer, batches: Iterator[Batch], log: RunLog, *, seconds: float
) -> tuple[Clock, list[float]]:
    """A clock that has timed the phases, and the seconds of each step as training takes it.

    The clock holds a CUDA device up, so there steps are taken once without and once with it.
    """
    device = trainer.run.ranks.device
    warm = Clock(device, waits=True)
    take_steps(
        trainer, batches, warm, least=1, most=max(2, ready(trainer.run.recipe) + 1), seconds=seconds
    )
    planned = min(max(FEWEST, round(seconds / warm.step_seconds[-1])), MOST)
    forget_peak(device)
    with log.bar("steps", planned, unit="steps") as advance:
        take = partial(
            take_steps, trainer, batches, least=FEWEST, most=planned, seconds=2 * seconds
        )
        free = Clock(device, waits=False)
        if device.type == "cuda":
            take(free)
        clock = Clock(device, waits=True)
        with listening(clock):
            take(clock, advance=advance)
    return clock, free.step_seconds or clock.step_seconds


def take_steps(
    trainer: Trainer,
    batches: Iterator[Batch],
    clock: Clock,
    *,
    least: int,
    most: int,
    seconds: float,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Between `least` and `most` steps, no new one after this many seconds. Raises UsageError where
    the loss is not finite."""
    began = time.perf_counter()
    clock.start()
    for count, batch in enumerate(batches, start=1):
        try:
            train_batch(trainer, batch)
        except DivergedError:
            raise UsageError(
                f"{trainer.run.recipe.name}: with random weights its loss is not finite, so there "
                "is no step to time; try train.amp=none"
            ) from None
        clock.end_step()
        advance(1)
        if count >= most or (count >= least and time.perf_counter() - began > seconds):
            return


def in_order(phases_ms: dict[str, float]) -> dict[str, float]:
    """The phases in the order in which a step goes through them."""
    return {name: phases_ms[name] for name in sorted(phases_ms, key=ORDER.index)}


def ready(recipe: Recipe) -> int:
    """How many batches the workers keep ready."""
    return recipe.data.workers * recipe.data.prefetch_factor


def queue_warnings(recipe: Recipe, steps: int) -> list[str]:
    """A sentence where so few steps were timed that batches made before them hide the waiting."""
    if steps > 2 * ready(recipe):
        return []
    return [
        f"{steps} steps were timed, and the workers keep {ready(recipe)} batches ready: the wait "
        "for data may be understated; raise --seconds"
    ]


@contextmanager
def cudnn_restored() -> Iterator[None]:
    """Put cudnn.benchmark back afterwards: a trainer decides it for the whole process."""
    before = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
