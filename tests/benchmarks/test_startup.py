"""`detcli --help` against importing the two libraries that print it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest


@pytest.mark.bench
def test_help_takes_at_most_half_longer_than_importing_typer_and_rich() -> None:
    """Both in turn, the best of many: what is left is the work, not the machine."""
    base, own = [], []
    for _ in range(15):
        base.append(seconds("-c", "import typer, rich"))
        own.append(seconds("-m", "detcli", "--help"))
    ratio = min(own) / min(base)
    print(
        f"\ndetcli --help {min(own):.3f} s, importing typer and rich {min(base):.3f} s: "
        f"{ratio:.2f} times as long"
    )
    assert ratio < 1.5


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return time.perf_counter() - start
