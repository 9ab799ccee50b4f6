"""`compare` on prediction files and on run folders."""

import json

import pytest

from detcli.predictions import PredictionsMeta, write_predictions
from detcli.recipe import dump_yaml, load_recipe
from tests.cli.predicted import find_candidates, write_data_set
from tests.cli.run_cli import run
from tests.postprocess.tables import suppress


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two run folders, the second far worse, with their own copies of the annotations."""
    folder = tmp_path_factory.mktemp("runs")
    for name, noise in (("good", 3.0), ("bad", 15.0)):
        place = folder / name
        place.mkdir()
        truth = write_data_set(place)
        (place / "truth.json").rename(place / "ground_truth.json")
        detections = suppress(find_candidates(truth, noise_px=noise, seed=1), method="nms")
        meta = PredictionsMeta(kind="detections", ground_truth=str(place / "ground_truth.json"))
        write_predictions(place / "predictions.json", detections, truth, meta)
        recipe = load_recipe("atss_r50", [f"optim.lr={0.01 * noise}"]).recipe
        (place / "recipe.yaml").write_text(dump_yaml(recipe))
    return folder


@pytest.mark.slow
def test_a_clear_difference_is_called_one(capsys, runs):
    done = run(capsys, "compare", runs / "good", runs / "bad", "--json", "--bootstrap", 200)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert set(found) >= {"a", "b", "delta", "per_class", "recipe_diff"}
    delta = found["delta"]["AP"]
    assert delta["value"] == pytest.approx(found["b"]["AP"] - found["a"]["AP"])
    assert delta["low"] < delta["high"] < 0
    assert delta["p"] < 0.05
    assert set(found["per_class"]) == {"cell", "platelet"}
    assert all(row["high"] < 0 for row in found["per_class"].values())
    assert found["recipe_diff"] == [{"key": "optim.lr", "a": 0.03, "b": 0.15}]
    assert "a is better" in done.err
    assert "--seeds" in done.err  # what the interval does not cover


def test_tables_for_people(capsys, runs, tmp_path):
    done = run(capsys, "compare", runs / "good", runs / "bad", "--classwise", "--out", tmp_path)
    assert "optim.lr" in done.out
    assert "platelet" in done.out
    assert "95 % interval" in done.out
    assert (tmp_path / "differences.png").stat().st_size > 5000


def test_false_positives_at_a_score(capsys, runs):
    arguments = ["compare", runs / "good", runs / "bad", "--bootstrap", 50]
    scores = ["--at-score", "0.3", "--at-score", "best"]
    found = json.loads(run(capsys, *arguments, *scores, "--json").out)
    fixed, best = found["points"]
    assert fixed["score"] == {"a": 0.3, "b": 0.3}
    assert 0 < best["score"]["a"] == best["score"]["b"] < 1
    for point in (fixed, best):
        figures = point["false_positives_per_image"]
        assert figures["delta"]["value"] == pytest.approx(figures["b"] - figures["a"])
        assert figures["delta"]["low"] < figures["delta"]["value"] < figures["delta"]["high"]
    assert fixed["recall"]["delta"]["high"] < 0
    shown = run(capsys, *arguments, *scores).out
    assert "false positives per image at score 0.300" in shown
    (even,) = json.loads(run(capsys, *arguments, "--at-recall", 0.5, "--json").out)["points"]
    assert even["score"]["a"] > even["score"]["b"]
    assert abs(even["recall"]["a"] - even["recall"]["b"]) < 0.01
    assert even["false_positives_per_image"]["delta"]["low"] > 0
    assert json.loads(run(capsys, *arguments, "--json").out)["points"] == []
    for wrong in ("1.5", "high", "nan"):
        done = run(capsys, *arguments, "--at-score", wrong)
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert "expected best, or a number from 0 to 1" in done.err


def test_a_run_against_itself_is_not_distinguishable(capsys, runs):
    done = run(capsys, "compare", runs / "good", runs / "good", "--json", "--bootstrap", 50)
    delta = json.loads(done.out)["delta"]["AP"]
    assert (delta["value"], delta["low"], delta["high"], delta["p"]) == (0, 0, 0, 1)
    assert "not distinguishable" in done.err


@pytest.mark.parametrize(
    ("a", "b", "margin", "code"),
    [
        ("good", "bad", 0.5, 1),
        ("bad", "good", 0.5, 0),
        ("good", "good", 0, 0),
        ("good", "bad", 99, 0),
    ],
)
def test_fail_if_worse_is_for_ci(capsys, runs, a, b, margin, code):
    done = run(capsys, "compare", runs / a, runs / b, "--fail-if-worse", margin, "--bootstrap", 20)
    assert done.code == code


def test_files_need_annotations(capsys, runs, tmp_path):
    content = (runs / "good" / "predictions.json").read_text()
    (tmp_path / "p.json").write_text(content)
    done = run(capsys, "compare", tmp_path / "p.json", tmp_path / "p.json")
    assert done.code == 2
    assert "--gt" in done.err
    truth = runs / "good" / "ground_truth.json"
    done = run(
        capsys,
        "compare",
        tmp_path / "p.json",
        tmp_path / "p.json",
        "--gt",
        truth,
        "--json",
        "--bootstrap",
        20,
    )
    assert json.loads(done.out)["recipe_diff"] == []


def test_different_annotations_are_not_compared(capsys, runs, tmp_path):
    truth = write_data_set(tmp_path, seed=5)
    detections = suppress(find_candidates(truth, noise_px=3, seed=1), method="nms")
    meta = PredictionsMeta(kind="detections", ground_truth=str(tmp_path / "truth.json"))
    write_predictions(tmp_path / "p.json", detections, truth, meta)
    done = run(capsys, "compare", runs / "good", tmp_path / "p.json")
    assert done.code == 2
    assert "different annotations" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_what_is_no_run_is_said(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run(capsys, "compare", tmp_path / "empty", tmp_path / "empty")
    assert (done.code, "predictions.json" in done.err) == (3, True)
    done = run(capsys, "compare", tmp_path / "absent", tmp_path / "empty")
    assert (done.code, "no such run" in done.err) == (2, True)
