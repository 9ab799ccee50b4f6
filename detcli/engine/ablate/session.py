"""What `detcli ablate` does: plan, train what is missing, measure."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from detcli.engine.ablate.plan import EXPLICIT_LR, Plan
from detcli.engine.ablate.trial import RECIPE, Trial, read_result
from detcli.engine.run.log import RunLog
from detcli.errors import UsageError
from detcli.recipe import diff_recipes, load_recipe, override_recipe

LOCK = ".lock"
Executor = Callable[[Sequence[Trial]], Iterator[Trial]]


def make_trials(plan: Plan, folder: Path, options: Sequence[str]) -> list[Trial]:
    """Every trial of the plan, seed by seed, so that a first whole table is there early.

    options: arguments of `detcli train`, such as --device.
    """
    trials = []
    for seed in plan.seeds:
        for system in plan.systems:
            recipe = override_recipe(system.recipe, [f"train.seed={seed}"], system.name)
            given = (f"{EXPLICIT_LR}={recipe.optim.lr}",) if plan.explicit_lr else ()
            trials.append(
                Trial(
                    system.name,
                    seed,
                    folder.resolve() / system.name / f"seed-{seed}",
                    recipe,
                    (*given, *options),
                )
            )
    return trials


def check_folder(trials: Sequence[Trial], folder: Path) -> None:
    """Refuse a folder with trials of other recipes under the same names. Raises UsageError."""
    for trial in trials:
        path = trial.folder / RECIPE
        if not path.is_file() or path.read_text(encoding="utf-8") == trial.yaml:
            continue
        changed = diff_recipes(load_recipe(path).recipe, trial.recipe)
        keys = ", ".join(key for key, _, _ in changed[:4]) or "its description"
        raise UsageError(
            f"{folder}: holds {trial.name} of another recipe (it differs in {keys}); "
            "name another folder with --out"
        )


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the folder for this ablation and the processes that inherit the descriptor.

    Raises UsageError while another one, or a trial that it left behind, is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode() or "?"
        os.close(descriptor)
        raise UsageError(
            f"{folder}: another ablation (process {owner}), or a trial that it left behind, "
            "is running here; wait for it, stop it, or name another folder with --out"
        ) from None
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def train_missing(trials: Sequence[Trial], executor: Executor, log: RunLog) -> None:
    """Train every trial that has not ended well before; say how each ended."""
    missing = [trial for trial in trials if (end := read_result(trial)) is None or end.failed]
    if len(missing) < len(trials):
        log.say(f"{len(trials) - len(missing)} of {len(trials)} trials are done already")
    started = time.perf_counter()
    with log.bar("trials", len(missing), unit="trials") as advance, interrupted_by_sigterm():
        for count, trial in enumerate(executor(missing), start=1):
            result = read_result(trial)
            assert result is not None, "an executor yields trials that have ended"
            left = (time.perf_counter() - started) / count * (len(missing) - count)
            how = f"failed: {result.reason}" if result.failed else "done"
            log.say(f"trial {count}/{len(missing)} {trial.name}: {how}; {minutes(left)} left")
            advance(1)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that the trials are ended, too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def minutes(seconds: float) -> str:
    """A duration in words: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    whole = round(seconds / 60)
    return f"{whole} min" if whole < 100 else f"{whole // 60} h {whole % 60} min"
