"""`predict` on a real, tiny run."""

import json

import pytest

from tests.cli.run_cli import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_predict_draws_and_writes(finished, tmp_path, capsys):
    images = next((finished[1].parent / "shapes").rglob("val.json")).parents[1] / "images" / "val"
    done = run(
        capsys, "predict", finished[1], images, "--out", tmp_path / "p", "--conf", "0.01", "--json"
    )
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert len(document["images"]) == 4
    pictures = sorted((tmp_path / "p").glob("*.jpg"))
    assert [str(path) for path in pictures] == [entry["picture"] for entry in document["images"]]
    meta = json.loads((tmp_path / "p" / "predictions.meta.json").read_text())
    assert meta["class_names"] == ["circle", "square", "triangle", "cross"]


def test_predict_on_nothing_says_so(finished, tmp_path, capsys):
    done = run(capsys, "predict", finished[1], tmp_path / "*.jpg")
    assert done.code == 3
    assert "*.jpg" in done.err
