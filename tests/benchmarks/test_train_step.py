"""One training step of RetinaNet-R50 and FCOS-R50 against torchvision's, on the CPU: time, memory.

Each program runs in a process of its own, as its users start it: ours with the settings that the
`detcli` command makes, torchvision's with none. They step by turns, in one thread; time is that of
the processor. See `step_process` for what a step is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from detcli.cpu import LARGE_PAGES
from tests.benchmarks.conftest import Table
from tests.benchmarks.pairs import summary
from tests.paths import ROOT

ROUNDS = 3
THREAD = {"OMP_NUM_THREADS": "1"}
PLAIN = {name: value for name, value in os.environ.items() if name not in LARGE_PAGES} | THREAD


class Steps:
    """A process that takes a training step when asked."""

    def __init__(self, owner: str, detector: str, side: int, batch: int, *, own: bool) -> None:
        module = [sys.executable, "-m", "tests.benchmarks.step_process"]
        self.process = subprocess.Popen(
            [*module, owner, detector, str(side), str(batch)],
            cwd=ROOT,
            text=True,
            env=PLAIN | LARGE_PAGES if own else PLAIN,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.seconds: list[float] = []
        self.mib = 0.0

    def step(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.seconds.append(answer["seconds"])
        self.mib = answer["mib"]


@pytest.mark.bench
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("side", "batch"), [(320, 4), (640, 2)])
@pytest.mark.parametrize("detector", ["retinanet", "fcos"])
def test_training_step(detector: str, side: int, batch: int, table: Table) -> None:
    runs = {
        name: Steps(owner, detector, side, batch, own=own)
        for name, owner, own in (
            ("detcli", "detcli", True),
            ("torchvision", "torchvision", False),
            ("torchvision, our allocation", "torchvision", True),
            ("torchvision, all layers", "torchvision-all", False),
            ("nothing", "nothing", False),
        )
    }
    for number in range(ROUNDS + 1):
        for name in list(runs) if number % 2 else reversed(runs):
            runs[name].step()
    for run in runs.values():
        run.process.communicate()
    base, own = runs.pop("nothing").mib, runs.pop("detcli")
    what = f"step, {detector}_r50, {batch} x {side} x {side}"
    for name, peer in runs.items():
        pair = summary(list(zip(own.seconds[1:], peer.seconds[1:], strict=True)))
        aims = {"at_least": 1.3, "floor": 1.1} if name == "torchvision" else {}
        shown = f"{pair.ours:.2f} s", f"{name} {pair.theirs:.2f} s"
        table.add(f"time of a {what}", *shown, pair.ratio, **aims)
    for name, peer in runs.items():
        ratio = (own.mib - base) / (peer.mib - base)
        limits = {"at_most": 0.9, "ceiling": 1.2} if name == "torchvision" else {}
        shown = f"{own.mib - base:.0f} MiB", f"{name} {peer.mib - base:.0f} MiB"
        table.add(f"memory of a {what}", *shown, ratio, **limits)
