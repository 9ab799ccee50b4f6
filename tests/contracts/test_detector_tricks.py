"""Tricks of a detector from the recipe to the saved candidates, on a real, tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detcli.engine.run import checkpoint
from tests.cli.run_cli import run
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

TRICKS = (
    "iou-branch",
    "kl-loss",
    "density-branch",
    "auxiliary-head",
    "class-weights",
    "enlarge-small",
)


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
    assert {"iou", "density", "aux_class", "aux_box", "aux_centerness"} <= terms
    assert {"aux_iou", "aux_density"} <= terms
    assert "training objects overlap with another of their class" in log
    weights = checkpoint.load(finished / "last.pt")["class_weights"]
    assert len(weights) == len(checkpoint.load(finished / "last.pt")["class_names"])
    assert min(weights) < 1 < max(weights)


def test_suppression_that_needs_a_column_works_on_what_is_saved(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "eval", finished, "--candidates", "--quiet").code == 0
    folder = finished / "eval_val"
    columns = np.load(folder / "candidates.npz")
    rows = len(columns["score"])
    assert len(columns["iou"]) == len(columns["density"]) == rows > 0
    assert 0 < columns["iou"].min() <= columns["iou"].max() < 1
    assert 0 <= columns["density"].min() <= columns["density"].max() <= 1
    assert columns["sigma"].shape == (rows, 4)
    assert columns["sigma"].min() > 0
    needy = ["iou_guided", "softer", "adaptive"]
    for file in ("candidates.npz", "predictions.json"):
        done = run(
            capsys,
            "nms-compare",
            folder / file,
            "--methods",
            ",".join(needy),
            "--json",
            "--quiet",
            "--bootstrap",
            10,
            "--gt",
            folder / "ground_truth.json",
        )
        assert done.code == 0, done.err
        found = json.loads(done.out)["rows"]
        assert [row["method"] for row in found] == ["nms", *needy]
        assert all(row["AP"] is not None for row in found)
    shown = [entry["sigma"] for entry in json.loads((folder / "predictions.json").read_text())]
    assert all(len(sides) == 4 and min(sides) > 0 for sides in shown)


def test_a_model_without_the_branch_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = json.loads((finished / "predictions.json").read_text())
    for column, method in (("sigma", "softer"), ("density", "adaptive")):
        file = tmp_path / f"{method}.json"
        less = [{key: entry[key] for key in entry if key != column} for entry in entries]
        file.write_text(json.dumps(less))
        done = run(
            capsys, "nms-compare", file, "--methods", method, "--gt", finished / "ground_truth.json"
        )
        assert done.code == 3
        assert len(done.err.strip().splitlines()) == 1
        assert f"method '{method}' needs the column '{column}'" in done.err
        assert "a detector with model." in done.err


def test_a_class_that_the_data_lack_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_tiny(tmp_path)
    done = run(capsys, "train", recipe, "model.class_loss.class_weights={unicorn: 2}", "--dry-run")
    assert done.code == 2
    assert "the data have no class 'unicorn'; they have " in done.err
    assert len([line for line in done.err.splitlines() if "unicorn" in line]) == 1
