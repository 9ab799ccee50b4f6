"""Passes in turn."""

import pytest
import torch

from detcli.engine.profile import timing
from detcli.engine.run.log import RunLog

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a run says so."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def runs_of(clock, log, *milliseconds):
    def run(name, taken):
        def once():
            log.append(name)
            clock[0] += taken / 1000

        return once

    return [run(name, taken) for name, taken in zip("AB", milliseconds, strict=False)]


def test_runs_take_turns_and_their_times_are_their_own(clock):
    order: list[str] = []
    runs = runs_of(clock, order, 30, 70)
    times = timing.time_alternately(runs, CPU, RunLog(quiet=True), "test", seconds=1.01)
    assert times == [pytest.approx([30.0] * 20), pytest.approx([70.0] * 20)]  # 2.02 s / 0.1 s
    assert order == ["A", "B"] * (len(order) // 2)


@pytest.mark.parametrize(
    ("milliseconds", "rounds", "warm"),
    [(10_000, timing.FEWEST, 1), (0.001, timing.MOST, timing.WARM_UP), (100, 10, 3)],
)
def test_slow_passes_are_few_and_fast_ones_not_too_many(clock, milliseconds, rounds, warm):
    order: list[str] = []
    runs = runs_of(clock, order, milliseconds)
    (times,) = timing.time_alternately(runs, CPU, RunLog(quiet=True), "test", seconds=1.05)
    assert len(times) == rounds
    assert len(order) == rounds + warm
