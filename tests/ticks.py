"""A clock that tests set themselves: what is asserted about times does not hang on the machine."""

from __future__ import annotations

import time
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from detcli.data import dataset
from detcli.data.records import Records

TICK_SECONDS = 0.001


class Ticks:
    """Stands for time.perf_counter: each look at it takes a tick, and else time passes only where
    a test says so. Other processes have clocks of their own: what they do takes no time here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(time, "perf_counter", self)

    def __call__(self) -> float:
        self.now += TICK_SECONDS
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    def decoding_takes(self, seconds: float) -> None:
        """Let so much time pass for each image that this process decodes."""
        read = dataset.read_pixels

        def slowly(records: Records, index: int) -> Any:
            self.now += seconds
            return read(records, index)

        self._monkeypatch.setattr(dataset, "read_pixels", slowly)

    def starting_a_worker_takes(self, seconds: float) -> None:
        """Let so much time pass for each process that is started."""
        start = BaseProcess.start

        def slowly(process: BaseProcess) -> None:
            self.now += seconds
            start(process)

        self._monkeypatch.setattr(BaseProcess, "start", slowly)
