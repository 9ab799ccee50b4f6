"""How long the phases of a training step take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

OTHER = "other"  # a step's time outside every phase


class Clock:
    """Listens to `phase` and adds up the time of each phase; the time of a phase inside another
    one counts for the inner one only.

    waits: at every border wait for a CUDA device, so that work is counted where it was asked for;
    steps take longer then than without a clock.
    """

    def __init__(self, device: torch.device, *, waits: bool) -> None:
        self.device = device
        self.waits = waits and device.type == "cuda"
        self.totals: defaultdict[str, float] = defaultdict(float)  # seconds
        self.step_seconds: list[float] = []
        self._open: list[float] = []  # seconds spent inside inner phases, of each open phase
        self._step_began = 0.0

    def _now(self) -> float:
        if self.waits:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a phase."""
        began = self._now()
        self._open.append(0.0)
        try:
            yield
        finally:
            seconds = self._now() - began
            self.totals[name] += seconds - self._open.pop()
            if self._open:
                self._open[-1] += seconds

    def start(self) -> None:
        """The first step begins here."""
        self._step_began = self._now()

    def end_step(self) -> None:
        """A step ends here, and the next one begins."""
        now = self._now()
        self.step_seconds.append(now - self._step_began)
        self._step_began = now

    def phases_ms(self) -> dict[str, float]:
        """Mean milliseconds per step of each phase, in the order in which they first ended, and
        of the rest; they add up to the mean step."""
        count = len(self.step_seconds)
        rest = sum(self.step_seconds) - sum(self.totals.values())
        means = {name: seconds / count * 1e3 for name, seconds in self.totals.items()}
        return means | {OTHER: rest / count * 1e3}
