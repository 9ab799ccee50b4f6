"""`detcli data inject` as a user runs it, and training with what it wrote."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from detcli.cli.app import main
from tests.cli.run_cli import run
from tests.data.build import write_image
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, a run of it, and two images without objects."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_tiny(
        folder,
        data={"shapes": {"variant": "hard_negatives"}},
        # After four steps no score is high, and boxes are still where the anchors were.
        model={"score_threshold": 0.001, "anchor_scale": 2.0},
        schedule={"epochs": 1, "warmup_steps": 1},
    )
    for number in range(2):
        write_image(folder / "empty" / f"{number}.png", (120, 160), seed=number)
    with contextlib.suppress(SystemExit):
        main(["train", str(recipe), "--device", "cpu", "--out", str(folder / "run"), "--quiet"])
    assert (folder / "run" / "best.pt").is_file()
    return folder


def test_a_run_injected_and_trained_with(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    common = [trained / "run", "--device", "cpu", "--min-score", 0, "--threshold", 0]
    done = run(
        capsys,
        "data",
        "inject",
        *common,
        "--into",
        trained / "empty",
        "--out",
        tmp_path / "a",
        "--json",
    )
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert set(document) == {
        "out",
        "patches",
        "images",
        "unchanged",
        "unreadable",
        "placed",
        "refused",
        "no_room",
    }
    assert document["images"] == 2
    assert document["placed"]["false_positives"] > 0
    again = run(
        capsys,
        "data",
        "inject",
        *common,
        "--into",
        trained / "empty",
        "--out",
        tmp_path / "b",
        "--limit",
        1,
        "--max-patches",
        3,
        "--quiet",
    )
    assert again.code == 0, again.err
    assert again.err == ""
    (row,) = (line for line in again.out.splitlines() if "false positives" in line)
    assert row.split()[:3] == ["false", "positives", "3"]
    assert len(list((tmp_path / "b" / "images").iterdir())) == 1
    patches = tmp_path / "a" / "patches"
    done = run(
        capsys,
        "train",
        trained / "tiny.yaml",
        "--trick",
        "duck-injection",
        "--trick",
        "poisson",
        f"data.augment.duck_injection.patches={patches}",
        "data.augment.duck_injection.prob=1",
        "data.augment.duck_injection.threshold=0",
        "data.augment.poisson.prob=1",
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    )
    assert done.code == 0, done.err
    assert "of 8 images, duck_negative " in done.err
    assert ", poisson " in done.err


def test_a_run_without_wrong_detections_says_so(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    done = run(
        capsys,
        "data",
        "inject",
        trained / "run",
        "--min-score",
        1,
        "--device",
        "cpu",
        "--out",
        tmp_path / "a",
    )
    assert done.code == 0, done.err
    assert any("train: no " in line and "--min-score" in line for line in done.err.splitlines())
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["patches"]


def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("a")
    inject = ["data", "inject", trained / "run", "--device", "cpu"]
    cases = [
        (["--into", tmp_path / "nothing", "--out", tmp_path / "a"], 3, "no folder with images"),
        (["--out", tmp_path / "full"], 2, "exists already and is not empty"),
        (["data.shapes.num_train=0", "--out", tmp_path / "a"], 2, "data.shapes.num_train"),
    ]
    for arguments, code, error in cases:
        done = run(capsys, *inject, *arguments)
        assert (done.code, len(done.err.splitlines())) == (code, 1), done.err
        assert error in done.err
    assert not (tmp_path / "a").exists()
