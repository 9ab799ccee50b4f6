from __future__ import annotations

import numpy as np
import pytest

from detcli.evaluation import evaluate_coco, verify, verify_with_pycocotools
from tests.evaluation.oracle import STATS, detections_of, large_data_set, run_pycocotools


def test_figures_are_those_of_pycocotools(capsys):
    ground_truth, detections = large_data_set(5, num_images=8)
    verdict = verify_with_pycocotools(ground_truth, detections)
    theirs = run_pycocotools(ground_truth, detections).stats
    np.testing.assert_array_equal([verdict[name] for name in STATS], theirs)
    assert verdict["largest_difference"] < 1e-12
    assert capsys.readouterr().out == ""  # stdout belongs to --json


def test_no_detections_do_not_crash_it():
    ground_truth, _ = large_data_set(5, num_images=4)
    verdict = verify_with_pycocotools(ground_truth, detections_of(4, [], [], [], []))
    assert verdict["AP"] == 0.0
    assert verdict["largest_difference"] == 0.0


@pytest.mark.parametrize(("wrong", "difference"), [(0.5, 0.1), (None, float("inf"))])
def test_a_difference_is_reported(wrong, difference, monkeypatch):
    ground_truth, detections = large_data_set(5, num_images=8)
    honest = evaluate_coco(ground_truth, detections)
    if wrong is not None:
        wrong = honest.metrics["AR10"] + 0.1
    monkeypatch.setitem(honest.metrics, "AR10", wrong)
    monkeypatch.setattr(verify, "evaluate_coco", lambda *_: honest)
    verdict = verify_with_pycocotools(ground_truth, detections)
    assert verdict["largest_difference"] == pytest.approx(difference)
