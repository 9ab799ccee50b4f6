"""The curve averages to AP, point by point as pycocotools has it; the best cut is the best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from detcli.errors import UsageError
from detcli.evaluation import evaluate_coco, match, precision_recall
from detcli.evaluation.matching import IOU_THRESHOLDS
from tests.evaluation.oracle import (
    detections_of,
    ground_truth_of,
    large_data_set,
    run_pycocotools,
    small_data_sets,
)


def assert_curves_are_those_of_pycocotools(ground_truth, detections):
    curves = precision_recall(
        ground_truth, match(ground_truth, detections), iou_thresholds=IOU_THRESHOLDS
    )
    theirs = run_pycocotools(ground_truth, detections).eval["precision"][..., 0, 2]  # (T, P, K)
    categories = np.argsort(np.argsort(ground_truth.category_ids))
    expected = np.moveaxis(theirs, 1, 2)[:, categories].swapaxes(0, 1)  # (K, T, P)
    got = np.where(np.isnan(curves.precision), -1, curves.precision)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    result = evaluate_coco(ground_truth, detections)
    for label, row in enumerate(result.per_class.values()):
        if row["AP"] is not None:
            assert curves.precision[label].mean() == pytest.approx(row["AP"], abs=1e-12)
    if result.metrics["AP"] is None:
        assert np.isnan(curves.mean_precision).all()
    else:
        assert curves.mean_precision.mean() == pytest.approx(result.metrics["AP"], abs=1e-12)
        for t, name in ((0, "AP50"), (5, "AP75")):
            assert curves.mean_precision[t].mean() == pytest.approx(result.metrics[name], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(small_data_sets())
def test_curves_of_small_data_sets(data_set):
    assert_curves_are_those_of_pycocotools(*data_set)


def test_curves_of_a_large_data_set():
    assert_curves_are_those_of_pycocotools(*large_data_set(6))


@settings(max_examples=60, deadline=None)
@given(small_data_sets())
def test_best_cut_is_the_best_of_all_cuts(data_set):
    assert_best_cut_is_the_best_of_all_cuts(*data_set)


@pytest.mark.parametrize("seed", range(3))
def test_best_cut_among_many_equal_scores(seed):
    ground_truth, detections = large_data_set(seed, boxes_per_image=40)
    detections = replace(detections, scores=np.round(detections.scores, 1))
    assert_best_cut_is_the_best_of_all_cuts(ground_truth, detections)


def assert_best_cut_is_the_best_of_all_cuts(ground_truth, detections):
    """By counting what each cut leaves."""
    table = match(ground_truth, detections)
    curves = precision_recall(ground_truth, table, iou_thresholds=(0.5,))
    for label in range(len(ground_truth.class_names)):
        here = table.labels == label
        true = here & (table.true_positive[:, 0] & 1 == 1)
        counts = here & (table.ignored[:, 0] & 1 == 0)
        objects = (table.object_counts[:, 0] & (ground_truth.labels == label)).sum()
        if not objects or not counts.any():
            assert np.isnan(curves.best_f1[label, 0])
            continue
        cuts = {}
        for score in np.unique(table.scores[counts]):
            kept = table.scores >= score
            found, shown = (true & kept).sum(), (counts & kept).sum()
            cuts[score] = (2 * found / (shown + objects), found / shown, found / objects)
        score = curves.best_score[label, 0]
        best = max(f1 for f1, _, _ in cuts.values())
        assert score == max(s for s, (f1, _, _) in cuts.items() if f1 == best)
        got = [curves.best_f1, curves.best_precision, curves.best_recall]
        assert [column[label, 0] for column in got] == pytest.approx(cuts[score], abs=1e-12)


def test_class_without_detections_has_a_curve_but_no_cut():
    ground_truth = ground_truth_of(
        [1], [0], [[0, 0, 10, 10]], [0], area=[100], crowd=[False], difficult=[False], num_classes=2
    )
    curves = precision_recall(
        ground_truth, match(ground_truth, detections_of(1, [], [], [], [])), iou_thresholds=[0.5]
    )
    assert (curves.precision[0] == 0).all()
    assert np.isnan(curves.precision[1]).all()
    assert np.isnan(curves.best_score).all()
    assert (curves.mean_precision == 0).all()


def test_other_iou_thresholds_are_refused():
    ground_truth, detections = large_data_set(0, num_images=2)
    table = match(ground_truth, detections)
    with pytest.raises(UsageError, match=r"IoU threshold 0\.52: expected one of 0\.50, 0\.55"):
        precision_recall(ground_truth, table, iou_thresholds=(0.52,))
