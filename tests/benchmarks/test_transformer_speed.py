"""A training step of DETR and Deformable DETR against transformers': see `transformer_process`. It
has a process of its own, whose heap no other benchmark has filled with holes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.benchmarks.conftest import Table
from tests.benchmarks.pairs import Pair
from tests.paths import ROOT

AIMS = {"detr": 1.0, "deformable_detr": 1.3}


@pytest.mark.bench
@pytest.mark.parametrize("name", AIMS)
def test_step_beside_transformers(name: str, table: Table) -> None:
    pytest.importorskip("transformers", reason="make bench installs it")
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.transformer_process", name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    pair = Pair(**json.loads(done.stdout.splitlines()[-1]))
    table.add(
        f"forward and backward of {name}_r50, 2 x 320 x 416",
        f"{pair.ours:.2f} s",
        f"transformers {pair.theirs:.2f} s",
        pair.ratio,
        at_least=AIMS[name],
        floor=0.8 * AIMS[name],
    )
