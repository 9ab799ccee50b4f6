"""`nms-compare` on files as `eval --candidates` and other tools write them."""

import csv
import json

import numpy as np
import pytest

from detcli.evaluation import METRIC_NAMES, evaluate_coco
from detcli.predictions import PredictionsMeta, read_predictions, write_predictions
from tests.cli.predicted import write_candidates, write_data_set
from tests.cli.run_cli import run
from tests.postprocess.tables import suppress
from tests.ticks import TICK_SECONDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted")
    truth = write_data_set(folder)
    write_candidates(folder, "a.json", truth, seed=1)
    write_candidates(folder, "b.npz", truth, seed=2, noise_px=6.0)
    options = {"method": "nms", "iou_threshold": 0.6, "class_agnostic": False, "max_per_image": 9}
    write_candidates(folder, "run.json", truth, seed=1, postprocess=options)
    return folder, truth


def document(capsys, *arguments):
    done = run(capsys, "nms-compare", *arguments, "--json", "--bootstrap", 50)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_sentence_people_type(capsys, folder):
    place, _ = folder
    done = run(capsys, "nms-compare", place / "a.json", "--methods", "wbf,soft,diou")
    assert done.code == 0, done.err
    header, *rows = [line for line in done.out.splitlines() if line.strip("─ ")]
    for title in ("AP50", "AR100", "boxes/image", "ms/image", "x nms", "AP - nms", "95 % interval"):
        assert title in header
    assert [row.split()[0] for row in rows] == ["nms", "wbf", "soft", "diou"]


def test_rows_are_what_eval_says_of_the_same_boxes(capsys, folder, ticks):
    place, truth = folder
    found = document(
        capsys, place / "a.json", "--methods", "soft,nms", "--method", "soft sigma=0.1 metric=diou"
    )
    candidates = read_predictions(place / "a.json", truth)
    assert [row["method"] for row in found["rows"]] == ["soft", "nms", "soft"]
    assert (found["images"], found["baseline"]) == (40, "nms")
    for row in found["rows"]:
        detections = suppress(candidates, method=row["method"], **row["params"])
        expected = evaluate_coco(truth, detections).metrics
        assert {name: row[name] for name in METRIC_NAMES} == expected
        assert row["boxes_per_image"] == len(detections.scores) / 40
        assert row["ms_per_image"] == pytest.approx(1000 * TICK_SECONDS / 40)
    assert found["rows"][1]["relative_time"] == 1.0
    assert found["rows"][2]["params"]["sigma"] == 0.1
    delta = found["rows"][0]["delta"]["AP"]
    assert delta["value"] == pytest.approx(found["rows"][0]["AP"] - found["rows"][1]["AP"])
    assert delta["low"] <= delta["mean"] <= delta["high"]
    assert found["rows"][1]["delta"]["AP"]["value"] == 0


def test_a_run_is_suppressed_as_its_recipe_says(capsys, folder):
    """The AP of training, of `eval` and of `nms-compare` is one number."""
    place, truth = folder
    found = document(capsys, place / "run.json", "--methods", "nms,diou")
    assert found["rows"][0]["params"]["iou_threshold"] == 0.6
    assert [row["params"]["max_per_image"] for row in found["rows"]] == [9, 9]
    assert max(row["boxes_per_image"] for row in found["rows"]) <= 9
    kept = suppress(
        read_predictions(place / "run.json", truth),
        method="nms",
        iou_threshold=0.6,
        class_agnostic=False,
        max_per_image=9,
    )
    assert found["rows"][0]["AP"] == evaluate_coco(truth, kept).metrics["AP"]


def test_params_are_what_was_used(capsys, folder):
    place, _ = folder
    options = "--methods", "nms,wbf", "--max-det", 7, "--class-agnostic"
    files = place / "a.json", place / "b.npz"
    for weights, of_wbf in (((), [1, 1]), (("--weights", "2,1"), [2, 1])):
        rows = document(capsys, *files, *options, *weights)["rows"]
        for row in rows:
            assert (row["params"]["max_per_image"], row["params"]["class_agnostic"]) == (7, True)
        assert [row["params"]["weights"] for row in rows] == [[2, 1] if weights else None, of_wbf]


def test_a_threshold_for_all_names_the_methods_that_have_none(capsys, folder):
    found = document(capsys, folder[0] / "a.json", "--methods", "soft,matrix,wbf", "--iou", 0.4)
    note = found["notes"][0]
    assert "--iou" in note
    assert "soft, matrix:" in note
    assert [row["params"].get("iou_threshold") for row in found["rows"]] == [0.4, None, None, 0.4]
    done = run(capsys, "nms-compare", folder[0] / "a.json", "--methods", "soft,wbf", "--iou", 0.4)
    assert "soft iou" not in done.out
    assert "wbf iou_threshold=0.4" in done.out


def test_all_methods_that_the_columns_allow_by_default(capsys, folder):
    found = document(capsys, folder[0] / "a.json")
    names = {row["method"] for row in found["rows"]}
    assert {"nms", "soft", "diou", "weighted", "wbf", "nmw", "matrix"} <= names
    assert not names & {"iou_guided", "softer", "adaptive"}


def test_another_baseline_keeps_nms_as_the_unit_of_time(capsys, folder):
    found = document(capsys, folder[0] / "a.json", "--methods", "wbf", "--baseline", "soft")
    assert found["baseline"] == "soft"
    rows = {row["method"]: row for row in found["rows"]}
    assert set(rows) == {"wbf", "soft", "nms"}
    assert rows["nms"]["relative_time"] == 1.0
    assert rows["soft"]["delta"]["AP"]["p"] == 1.0
    assert rows["nms"]["delta"]["AP"]["value"] == rows["nms"]["AP"] - rows["soft"]["AP"]


def test_several_files_are_an_ensemble(capsys, folder):
    place, _ = folder
    files = place / "a.json", place / "b.npz"
    alone = [document(capsys, file, "--methods", "wbf")["rows"][1]["AP"] for file in files]
    both = document(capsys, *files, "--methods", "wbf")["rows"][1]["AP"]
    assert both > max(alone)
    weighted = document(capsys, *files, "--methods", "wbf", "--weights", "5,1")
    assert weighted["rows"][1]["AP"] != both


def test_a_model_that_found_nothing_still_counts(capsys, folder, tmp_path):
    """Wherever it stands, and as with weights of one."""
    place, _ = folder
    (tmp_path / "empty.json").write_text("[]")
    both = [tmp_path / "empty.json", place / "a.json"]
    shared = "--gt", place / "truth.json", "--methods", "wbf", "--out"
    document(capsys, *both, *shared, tmp_path / "first")
    document(capsys, *reversed(both), *shared, tmp_path / "last")
    document(capsys, *both, "--weights", "1,1", *shared, tmp_path / "weighted")
    document(capsys, place / "a.json", *shared, tmp_path / "alone")
    scores = {
        name: [entry["score"] for entry in json.loads((tmp_path / name / "wbf.json").read_text())]
        for name in ("first", "last", "weighted", "alone")
    }
    assert scores["first"] == scores["last"] == scores["weighted"]
    assert sum(scores["first"]) < sum(scores["alone"])


def test_without_ground_truth_everything_but_ap(capsys, folder, tmp_path):
    place, _ = folder
    entries = json.loads((place / "a.json").read_text())
    (tmp_path / "plain.json").write_text(json.dumps(entries))
    done = run(capsys, "nms-compare", tmp_path / "plain.json", "--methods", "soft", "--json")
    assert done.code == 0
    assert "--gt FILE" in done.err
    for row in json.loads(done.out)["rows"]:
        assert row["AP"] is None
        assert row["delta"]["AP"]["low"] is None
        assert row["boxes_per_image"] > 0
    given = document(capsys, tmp_path / "plain.json", "--gt", place / "truth.json")
    assert given["rows"][0]["AP"] is not None


def test_suppressed_predictions_make_the_comparison_moot(capsys, folder, tmp_path):
    place, truth = folder
    candidates = read_predictions(place / "a.json", truth)
    kept = suppress(candidates, method="nms", iou_threshold=0.5)
    meta = PredictionsMeta(kind="detections", ground_truth=str(place / "truth.json"))
    write_predictions(tmp_path / "kept.json", kept, truth, meta)
    done = run(capsys, "nms-compare", tmp_path / "kept.json", "--methods", "soft", "--quiet")
    assert "moot" in document(capsys, tmp_path / "kept.json")["notes"][0]
    assert "moot" not in run(capsys, "nms-compare", place / "a.json", "--methods", "soft").err
    assert done.err == ""


def test_a_sweep_judges_on_images_that_it_did_not_choose_on(capsys, folder, tmp_path):
    place, _ = folder
    found = document(capsys, place / "a.json", "--methods", "soft,nms", "--sweep", "--seed", 3)
    assert found["images"] == 20
    assert found["rows"][0]["params"]["sigma"] != 0.5 or "sigma" in found["notes"][0]
    # Annotations of the images it reports on have no say in what it chooses.
    from detcli.engine.compare.sweep import halves

    _, judged = halves(40, 3)
    content = json.loads((place / "truth.json").read_text())
    spoilt = {10 * int(index) for index in judged}
    for annotation in content["annotations"]:
        if annotation["image_id"] in spoilt:
            annotation["bbox"] = [0, 0, 5, 5]
    (tmp_path / "spoilt.json").write_text(json.dumps(content))
    other = document(
        capsys,
        place / "a.json",
        "--methods",
        "soft,nms",
        "--sweep",
        "--seed",
        3,
        "--gt",
        tmp_path / "spoilt.json",
    )
    assert [row["params"] for row in other["rows"]] == [row["params"] for row in found["rows"]]
    assert other["rows"][0]["AP"] < found["rows"][0]["AP"]


def test_a_sweep_may_leave_the_threshold_of_the_run(capsys, folder):
    swept = document(capsys, folder[0] / "run.json", "--methods", "nms", "--sweep")
    assert "best of 11 values" in swept["notes"][0]
    given = document(capsys, folder[0] / "run.json", "--methods", "nms", "--sweep", "--iou", 0.7)
    assert given["rows"][0]["params"]["iou_threshold"] == 0.7
    assert "was given" in given["notes"][0]


def test_out_holds_predictions_a_table_and_pictures(capsys, folder, tmp_path):
    place, truth = folder
    done = run(
        capsys,
        "nms-compare",
        place / "a.json",
        "--methods",
        "wbf",
        "--method",
        "soft sigma=0.1",
        "--out",
        tmp_path / "out",
        "--json",
    )
    assert done.code == 0, done.err
    rows = {row["method"]: row for row in json.loads(done.out)["rows"]}
    for name, method in (("wbf", "wbf"), ("soft_sigma-0.1", "soft"), ("nms", "nms")):
        written = read_predictions(tmp_path / "out" / f"{name}.json", truth)
        assert evaluate_coco(truth, written).metrics["AP"] == pytest.approx(rows[method]["AP"])
    with (tmp_path / "out" / "methods.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == ["nms", "wbf", "soft sigma=0.1"]
    pictures = {path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".png"}
    assert pictures == {"ap_against_time.png", "precision_recall.png"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--methods", "wfb"], 2, ["'wfb'", "did you mean", "wbf"]),
        (["--method", "soft sgima=1"], 2, ["sgima", "sigma"]),
        (["--method", "soft sigma=-1"], 2, ["sigma", "greater than 0"]),
        (["--method", "soft sigma"], 2, ["OPTION=VALUE", "'sigma'"]),
        (["--methods", "soft,soft"], 2, ["twice"]),
        (["--methods", "softer"], 3, ["'softer'", "'sigma'", "detector"]),
        (["--methods", "wbf", "--weights", "1,x"], 2, ["--weights", "'1,x'"]),
        (["--methods", "wbf", "--weights", "1,2,3"], 2, ["--weights", "expected 1", "got 3"]),
        (["--iou", "1.5"], 2, ["iou_threshold", "equal to 1"]),
        (["--gt", "missing.json"], 3, ["missing.json"]),
    ],
)
def test_wrong_uses_are_one_clear_line(capsys, folder, arguments, code, words):
    done = run(capsys, "nms-compare", folder[0] / "a.json", *arguments)
    assert done.code == code
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 1
    for word in words:
        assert word in done.err


def test_predictions_cut_at_a_score_are_refused(capsys, folder, tmp_path):
    place, truth = folder
    candidates = read_predictions(place / "a.json", truth)
    rows = np.flatnonzero(candidates.scores > 0.3)
    meta = PredictionsMeta(
        kind="candidates", ground_truth=str(place / "truth.json"), score_threshold=0.3
    )
    write_predictions(tmp_path / "cut.json", candidates.take(rows), truth, meta)
    done = run(capsys, "nms-compare", tmp_path / "cut.json", "--methods", "soft")
    assert done.code == 3
    assert "score 0.3" in done.err
    assert "--allow-threshold" in done.err
    assert run(capsys, "nms-compare", tmp_path / "cut.json", "--allow-threshold").code == 0


DAMAGES = {
    "wrong type": lambda entries: [{**entries[0], "score": "high"}, *entries[1:]],
    "negative size": lambda entries: [{**entries[0], "bbox": [1, 2, -3, 4]}, *entries[1:]],
    "unknown image": lambda entries: [{**entries[0], "image_id": 7}, *entries[1:]],
    "unknown category": lambda entries: [{**entries[0], "category_id": 7}, *entries[1:]],
    "missing key": lambda entries: [{"image_id": 10, "bbox": [1, 2, 3, 4]}],
    "a dict in place of a list": lambda entries: {"annotations": entries},
    "NaN": lambda entries: [{**entries[0], "score": float("nan")}],
}


@pytest.mark.parametrize("verb", ["nms-compare", "eval", "compare"])
@pytest.mark.parametrize("damage", [*DAMAGES, "truncated", "0 bytes", "not JSON"])
def test_unusable_predictions_are_exit_3_and_one_line(capsys, folder, tmp_path, verb, damage):
    place, _ = folder
    text = (place / "a.json").read_text()
    if damage in DAMAGES:
        text = json.dumps(DAMAGES[damage](json.loads(text)))
    else:
        text = {"truncated": text[:-40], "0 bytes": "", "not JSON": "hello"}[damage]
    (tmp_path / "p.json").write_text(text)
    before = {
        "nms-compare": [tmp_path / "p.json"],
        "eval": ["--predictions", tmp_path / "p.json"],
        "compare": [tmp_path / "p.json", place / "a.json"],
    }[verb]
    done = run(capsys, verb, *before, "--gt", place / "truth.json")
    assert done.code == 3
    assert len(done.err.strip().splitlines()) == 1
    assert "p.json" in done.err


@pytest.mark.parametrize("verb", ["nms-compare", "eval", "compare"])
def test_no_predictions_at_all_are_zeros(capsys, folder, tmp_path, verb):
    place, _ = folder
    (tmp_path / "p.json").write_text("[]")
    before = {
        "nms-compare": [tmp_path / "p.json", "--bootstrap", 20],
        "eval": ["--predictions", tmp_path / "p.json"],
        "compare": [tmp_path / "p.json", tmp_path / "p.json", "--bootstrap", 20],
    }[verb]
    done = run(capsys, verb, *before, "--gt", place / "truth.json", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    value = {
        "nms-compare": lambda: found["rows"][0]["AP"],
        "eval": lambda: found["metrics"]["AP"],
        "compare": lambda: found["a"]["AP"],
    }[verb]()
    assert value == 0.0
