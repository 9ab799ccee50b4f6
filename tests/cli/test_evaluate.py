"""`eval --predictions`: whose rules, what stands behind the numbers, pictures."""

import json

import numpy as np
import pytest

from detcli.evaluation import confusion_matrix, error_report, evaluate_voc, match
from detcli.predictions import PredictionsMeta, write_predictions
from tests.cli.predicted import find_candidates, write_data_set
from tests.cli.run_cli import run
from tests.postprocess.tables import suppress


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    truth = write_data_set(folder)
    detections = suppress(find_candidates(truth, noise_px=4, seed=1), method="nms")
    meta = PredictionsMeta(kind="detections", ground_truth=str(folder / "truth.json"))
    write_predictions(folder / "p.json", detections, truth, meta)
    return folder / "p.json", truth, detections


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["voc"], {}),
        (["voc07", "--iou", 0.7], {"eleven_point": True, "iou_threshold": 0.7}),
        (["voc", "--plus-one"], {"inclusive_corners": True}),
    ],
)
def test_voc_by_its_own_rules(capsys, measured, arguments, options):
    path, truth, detections = measured
    done = run(capsys, "eval", "--predictions", path, "--json", "--metric", *arguments)
    expected = evaluate_voc(truth, detections, **options)
    found = json.loads(done.out)
    assert found["metrics"] == {"mAP": expected.mAP}
    assert found["per_class"] == expected.per_class
    assert found["interpolation"] == ("11-point" if options.get("eleven_point") else "every-point")
    shown = run(capsys, "eval", "--predictions", path, "--metric", *arguments).out
    assert f"{expected.mAP:.4f}" in shown
    assert "IoU 0.7" in shown or "iou_threshold" not in options


def test_analysis_as_tables_and_json(capsys, measured):
    path, truth, detections = measured
    shown = run(capsys, "eval", "--predictions", path, "--analyse", "--classwise").out
    for words in (
        "kinds of errors",
        "localisation",
        "calibration at IoU 0.5",
        "platelet",
        "confusion at score 0.25 and IoU 0.5",
        "missed",
    ):
        assert words in shown
    done = run(capsys, "eval", "--predictions", path, "--analyse", "--conf", 0.6, "--json")
    found = json.loads(done.out)["analysis"]
    report = error_report(truth, detections, match(truth, detections))
    assert found["errors"]["cost"] == report.cost
    assert found["confusion"]["score_threshold"] == 0.6
    counts = confusion_matrix(truth, detections, score_threshold=0.6).counts
    assert found["confusion"]["counts"] == counts.tolist()
    assert counts[:-1].sum() == len(truth.labels)


def test_pictures(capsys, measured, tmp_path):
    path, _, _ = measured
    done = run(capsys, "eval", "--predictions", path, "--plots", "--out", tmp_path / "pictures")
    assert done.code == 0
    names = {"precision_recall", "errors", "confusion", "calibration"}
    written = {entry.name for entry in (tmp_path / "pictures").iterdir()}
    assert written == {f"{name}{suffix}" for name in names for suffix in (".png", ".svg")}
    assert all(f"{name}.png" in done.err for name in names)
    assert run(capsys, "eval", "--predictions", path, "--plots", "--quiet").err == ""
    assert (path.parent / "p_eval" / "errors.png").stat().st_size > 5000


def test_verify_with_voc_metric_still_checks_coco(capsys, measured):
    done = run(capsys, "eval", "--predictions", measured[0], "--verify", "--json")
    assert json.loads(done.out)["largest_difference"] < 1e-12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "kitti"], "kitti"),
        (["--metric", "voc", "--iou", "0"], "IoU threshold"),
        (["--conf", "1.5"], "--conf"),
    ],
)
def test_wrong_uses(capsys, measured, arguments, words):
    done = run(capsys, "eval", "--predictions", measured[0], *arguments)
    assert done.code == 2
    assert words in done.err


def test_scores_that_look_cut_are_doubted(capsys, measured, tmp_path):
    path, truth, detections = measured
    kept = detections.take(np.flatnonzero(detections.scores > 0.3))
    place = str(path.parent / "truth.json")
    for threshold, doubted in ((None, True), (0.05, False)):
        meta = PredictionsMeta(kind="detections", ground_truth=place, score_threshold=threshold)
        write_predictions(tmp_path / "p.json", kept, truth, meta)
        done = run(capsys, "eval", "--predictions", tmp_path / "p.json")
        assert done.code == 0
        assert ("this is not AP" in done.err) == doubted


def test_worst_needs_images(capsys, measured):
    done = run(capsys, "eval", "--predictions", measured[0], "--worst", 3)
    assert done.code == 2
    (error,) = (line for line in done.err.splitlines() if line.startswith("error: "))
    assert "--worst" in error
    assert "--predictions" in error
