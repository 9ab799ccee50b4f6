"""Training a recipe in a process of its own, in one thread, with its processor time."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KEPT = ("AP", "AP50", "AP75")


def detcli(*arguments: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "detcli", *arguments, "--json"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def trained(recipe: str, overrides: Sequence[str], folder: Path) -> dict[str, float]:
    """AP of the last epoch, and the processor's minutes for training and evaluation."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = detcli("train", recipe, *overrides, "--out", str(folder), "--quiet")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {**{name: run["metrics"][name] for name in KEPT}, "cpu_minutes": seconds / 60}
