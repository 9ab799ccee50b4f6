"""`detcli train` from its start to its first step, and what evaluation takes of an epoch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.conftest import Table
from tests.benchmarks.pairs import by_turns, children_time
from tests.paths import ROOT, SHARED, needs_shared


def python(*arguments: str, folder: Path) -> None:
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True, cwd=folder)


@pytest.mark.bench
def test_time_to_the_first_step(tmp_path: Path, table: Table) -> None:
    """Processor time of a dry run, which ends with the first forward and backward pass."""
    train = "-m", "detcli", "train", str(ROOT / "recipes/atss_r18_shapes.yaml"), "--dry-run"
    imports = "-c", "import torch, torchvision"
    pair = by_turns(
        lambda: python(*train, folder=tmp_path),
        lambda: python(*imports, folder=tmp_path),
        rounds=3,
        clock=children_time,
    )
    table.add(
        "train atss_r18_shapes to its first step, included",
        f"{pair.ours:.1f} s",
        f"import torch, torchvision {pair.theirs:.1f} s",
        1 / pair.ratio,
        ceiling=8,
    )


@pytest.mark.bench
@needs_shared
def test_share_of_evaluation(tmp_path: Path, table: Table) -> None:
    """Of two epochs on BCCD, 205 images to train on and 87 to evaluate after the second."""
    data = f"data.root={SHARED / 'data/bccd-voc'}"
    recipe = str(ROOT / "recipes/atss_r18_bccd.yaml")
    out = tmp_path / "run"
    train = "-m", "detcli", "train", recipe, data, "schedule.epochs=2", "--out", str(out)
    python(*train, folder=tmp_path)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    training = sum(row["seconds"] for row in rows if row["kind"] == "epoch")
    evaluation = sum(row["seconds"] for row in rows if row["kind"] == "eval")
    table.add(
        "evaluation's share of training, atss_r18_bccd",
        f"{evaluation:.1f} s",
        f"with training {training + evaluation:.1f} s",
        evaluation / (training + evaluation),
        at_most=0.1,
        ceiling=0.25,
    )
