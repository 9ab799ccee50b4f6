"""What `detcli profile` measures, against files whose reading takes a known time on the real clock.

The default suite asks the same of a clock that it sets itself; workers have clocks of their own.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detcli.data import dataset
from detcli.data.records import Records
from detcli.engine.profile.loader import Source, images_per_s
from detcli.engine.profile.settings import Setting
from detcli.engine.profile.step import timed_steps
from detcli.engine.train.loop import endless_batches
from tests.benchmarks.conftest import Table
from tests.engine.profile.trials import CPU, QUIET, thin_network, tiny, trial

__all__ = ["thin_network"]  # a fixture of every test here

pytestmark = pytest.mark.bench
SLOW_SECONDS = 0.05


def test_rates_of_slow_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Table) -> None:
    read = dataset.read_pixels

    def slowly(records: Records, index: int) -> Any:
        time.sleep(SLOW_SECONDS)
        return read(records, index)

    monkeypatch.setattr(dataset, "read_pixels", slowly)
    source = Source(tiny(tmp_path), CPU)
    plain = replace(Setting.of(source.recipe), workers=0, cache="none")
    alone = images_per_s(source.loader(plain), seconds=1.0)
    beside = images_per_s(source.loader(replace(plain, workers=2)), seconds=2.0)
    for name, rate, workers in (("no worker", alone, 1), ("two workers", beside, 2)):
        most = workers / SLOW_SECONDS
        table.add(
            f"profile: images/s of slow files, {name}",
            f"{rate:.1f}",
            f"{most:.1f} at most",
            rate / most,
            at_least=0.8,
            at_most=1.0,
            ceiling=1.5,  # a worker's first batch is ready before the clock starts
        )


def test_little_of_a_step_lies_outside_every_phase(tmp_path: Path, table: Table) -> None:
    trainer = trial(tmp_path)
    clock, seconds = timed_steps(trainer, endless_batches(trainer), QUIET, seconds=2.0)
    other, step = clock.phases_ms()["other"], 1e3 * sum(seconds) / len(seconds)
    table.add(
        "profile: time of a step outside every phase",
        f"{other:.2f} ms",
        f"{step:.2f} ms",
        other / step,
        at_most=0.1,
    )
