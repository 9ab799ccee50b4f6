"""Tricks of a detector from the recipe to the saved candidates, on a real, tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detcli.engine import checkpoint
from tests.cli.run_cli import run
from tests.recipes import write_tiny

TRICKS = ("iou-branch", "auxiliary-head", "class-weights", "enlarge-small")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run with all the tricks."""
    from detcli.cli.app import main

    folder = tmp_path_factory.mktemp("run")
    recipe = write_tiny(folder, model={"score_threshold": 0.01}, schedule={"epochs": 1})
    chosen = [word for trick in TRICKS for word in ("--trick", trick)]
    with pytest.raises(SystemExit) as done:
        main(["train", str(recipe), *chosen, "--out", str(folder / "run"), "--quiet"])
    assert not done.value.code
    return folder / "run"


def test_each_trick_says_what_it_did(finished: Path) -> None:
    log = (finished / "log.txt").read_text()
    assert "class weights, mean 1 over the objects: " in log
    assert "training objects are smaller than 32 pixels" in log
    steps = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    terms = set(next(step for step in steps if step["kind"] == "train"))
    assert {"iou", "aux_class", "aux_box", "aux_centerness", "aux_iou"} <= terms
    weights = checkpoint.load(finished / "last.pt")["class_weights"]
    assert len(weights) == len(checkpoint.load(finished / "last.pt")["class_names"])
    assert min(weights) < 1 < max(weights)


def test_iou_guided_suppression_works_on_the_saved_candidates(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "eval", finished, "--candidates", "--quiet").code == 0
    file = finished / "eval_val" / "candidates.npz"
    column = np.load(file)["iou"]
    assert len(column) == len(np.load(file)["score"]) > 0
    assert 0 < column.min() <= column.max() < 1
    done = run(capsys, "nms-compare", file, "--methods", "iou_guided", "--json", "--quiet")
    assert done.code == 0, done.err
    methods = [row["method"] for row in json.loads(done.out)["rows"]]
    assert methods == ["nms", "iou_guided"]


def test_a_class_that_the_data_lack_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_tiny(tmp_path)
    done = run(
        capsys, "train", recipe, "model.class_loss.class_weights={unicorn: 2}", "--dry-run",
    )  # fmt: skip
    assert done.code == 2
    assert "the data have no class 'unicorn'; they have " in done.err
    assert len([line for line in done.err.splitlines() if "unicorn" in line]) == 1
