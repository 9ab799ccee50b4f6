"""Two programs measured by turns in one process, and the ratio of their times."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """Median seconds of both sides, and the median of theirs / ours over the rounds."""

    ours: float
    theirs: float
    ratio: float


def by_turns(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> Pair:
    """Each side once to warm up, then both in each round, the other one first every other time.

    The default clock counts the processor's time and so leaves out other work on the machine,
    but also what happens in other processes.
    """

    def seconds(run: Callable[[], Any]) -> float:
        start = clock()
        run()
        return clock() - start

    def one_round(number: int) -> tuple[float, float]:
        if number % 2:
            return seconds(ours), seconds(theirs)
        other = seconds(theirs)
        return seconds(ours), other

    ours()
    theirs()
    return summary([one_round(number) for number in range(rounds)])


def summary(times: list[tuple[float, float]]) -> Pair:
    """The medians of (ours, theirs) of each round."""
    own, other = zip(*times, strict=True)
    return Pair(median(own), median(other), median(b / a for a, b in times))


def children_time() -> float:
    """Processor seconds of all programs that this one has started and waited for; `os.times`
    counts them in hundredths, which is too coarse for a start-up."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
