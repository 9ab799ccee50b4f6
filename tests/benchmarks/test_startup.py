"""Start-up of the commands that need no network."""

from __future__ import annotations

import compileall
import subprocess
import sys

import pytest

from tests.benchmarks.conftest import Table
from tests.benchmarks.pairs import by_turns, children_time
from tests.paths import ROOT

ROUNDS = 11
COMMANDS = (("--help",), ("recipes", "list"), ("lr-scale",), ("lr-scale", "atss_r50"))
CEILINGS = {("--help",): 1.8, ("lr-scale", "atss_r50"): 9}  # the latter checks a recipe
IMPORTS = ("-c", "import typer, rich")


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)


@pytest.mark.bench
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_beside_importing_typer_and_rich(command: tuple[str, ...], table: Table) -> None:
    compileall.compile_dir(ROOT / "detcli", quiet=1)  # as pip does where it installs
    pair = by_turns(
        lambda: run("-m", "detcli", *command),
        lambda: run(*IMPORTS),
        rounds=ROUNDS,
        clock=children_time,
    )
    ceiling = CEILINGS.get(command, 4)
    table.add(
        f"detcli {' '.join(command)}",
        f"{pair.ours:.3f} s",
        f"import typer, rich {pair.theirs:.3f} s",
        1 / pair.ratio,
        at_most=1.5,
        ceiling=ceiling,
    )
