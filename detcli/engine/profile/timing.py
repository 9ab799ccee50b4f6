"""Time passes against one another: in turn, so that a machine that slows down slows all alike; and
medians with quartiles of times, and of ratios between what was measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detcli.engine.run.log import RunLog

WARM_UP = 10  # passes that do not count, or fewer where they take long
FEWEST, MOST = 3, 200  # passes that count


def time_alternately(
    runs: Sequence[Callable[[], object]],
    device: torch.device,
    log: RunLog,
    what: str,
    *,
    seconds: float,
) -> list[list[float]]:
    """Milliseconds of every pass of each run: A B A B ..., as many as `seconds` for each run
    allow, but `FEWEST` to `MOST`. The n-th times of two runs belong together. Before them, passes
    that do not count load kernels and fill caches."""
    of_round = warmed_up(runs, device, seconds * len(runs) / 5)
    rounds = min(MOST, max(FEWEST, int(seconds * len(runs) / of_round)))
    times: list[list[float]] = [[] for _ in runs]
    for _ in log.track(range(rounds), what, rounds, unit="rounds"):
        for row, run in zip(times, runs, strict=True):
            row.append(timed(run, device))
    return times


def warmed_up(runs: Sequence[Callable[[], object]], device: torch.device, seconds: float) -> float:
    """Pass through every run, up to `WARM_UP` times; the seconds of the last round."""
    ends = time.perf_counter() + seconds
    for _ in range(WARM_UP):
        of_round = sum(timed(run, device) for run in runs) / 1000
        if time.perf_counter() > ends:
            break
    return of_round


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one pass, until the device has finished it."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return (time.perf_counter() - started) * 1000


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device; the CPU never runs ahead."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Spread:
    """The median and both quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    def text(self, decimals: int) -> str:
        """The median with the quartiles behind it."""
        return f"{self.median:.{decimals}f} ({self.low:.{decimals}f}-{self.high:.{decimals}f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value."""
    low, median, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75)).tolist()
    return Spread(median, low, high)


def paired_ratios(base: Sequence[float], other: Sequence[float]) -> Spread:
    """Spread of other / base, turn by turn: what slows the machine down for a while slows both
    sides of a pair."""
    return spread([after / before for before, after in zip(base, other, strict=True)])
