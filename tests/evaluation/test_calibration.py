from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detcli.errors import DataError, UsageError
from detcli.evaluation import calibration, match
from tests.evaluation.oracle import detections_of, ground_truth_of, large_data_set


def one_object_each(found, scores, num_classes=1, labels=None):
    """An image per detection with one object, hit or missed by far."""
    count = len(found)
    labels = np.zeros(count, int) if labels is None else labels
    boxes = np.tile([0.0, 0, 40, 40], (count, 1))
    ground_truth = ground_truth_of(
        np.arange(count),
        np.arange(count),
        boxes,
        labels,
        area=np.full(count, 1600),
        crowd=np.zeros(count),
        difficult=np.zeros(count),
        num_classes=num_classes,
    )
    boxes = boxes + np.where(found, 0, 100)[:, None] * [1, 1, 0, 0]
    detections = detections_of(count, np.arange(count), boxes, labels, scores)
    return ground_truth, match(ground_truth, detections)


def test_bins_and_error_of_a_worked_example():
    found, scores = [True, False, True, True, False], [0.9, 0.9, 1.0, 0.25, 0.2]
    result = calibration(*one_object_each(found, scores), bins=4)
    assert result.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert result.count.tolist() == [1, 1, 0, 3]  # 0.25 opens the second bin
    assert result.precision[[0, 1, 3]] == pytest.approx([0, 1, 2 / 3])
    assert result.mean_score[[0, 1, 3]] == pytest.approx([0.2, 0.25, 2.8 / 3])
    assert np.isnan(result.precision[2])
    assert np.isnan(result.mean_score[2])
    assert result.error == pytest.approx((0.2 + 0.75 + 0.8) / 5)
    assert result.class_errors == {"class 0": result.error}


def test_perfectly_calibrated_scores_have_no_error():
    """Seven of ten found at score 0.7, and likewise for the rest."""
    share = np.repeat(np.arange(1, 10) / 10, 10)
    found = np.tile(np.arange(10), 9) < np.repeat(np.arange(1, 10), 10)
    assert calibration(*one_object_each(found, share)).error == pytest.approx(0, abs=1e-12)
    shy = calibration(*one_object_each(found, share / 2))
    assert shy.error == pytest.approx(share.mean() / 2)


def test_classes_are_measured_apart():
    labels = np.array([0, 0, 1, 1])
    table = one_object_each([True, True, False, False], [0.8] * 4, num_classes=3, labels=labels)
    result = calibration(*table)
    assert result.error == pytest.approx(0.3)
    assert result.class_errors["class 0"] == pytest.approx(0.2)
    assert result.class_errors["class 1"] == pytest.approx(0.8)
    assert result.class_errors["class 2"] is None


def test_counts_follow_the_match_table_and_leave_out_the_ignored():
    ground_truth, detections = large_data_set(2)
    table = match(ground_truth, detections)
    result = calibration(ground_truth, table, iou_threshold=0.75, bins=7)
    counts = (table.ignored[:, 0] >> 5) & 1 == 0
    true = (table.true_positive[:, 0] >> 5) & 1 == 1
    assert result.count.sum() == counts.sum() < len(counts)
    assert np.nansum(result.count * result.precision) == pytest.approx(true.sum())
    histogram, _ = np.histogram(table.scores[counts], 7, (0, 1))
    np.testing.assert_array_equal(result.count, histogram)


def test_no_detections_have_no_error():
    ground_truth, _ = large_data_set(2, num_images=3)
    table = match(ground_truth, detections_of(3, [], [], [], []))
    assert calibration(ground_truth, table).error is None


def test_logits_and_impossible_requests_are_refused():
    ground_truth, detections = large_data_set(2, num_images=3)
    table = match(ground_truth, detections)
    with pytest.raises(UsageError, match="at least 1 bin, got 0"):
        calibration(ground_truth, table, bins=0)
    with pytest.raises(UsageError, match=r"IoU threshold 0\.3"):
        calibration(ground_truth, table, iou_threshold=0.3)
    logits = match(ground_truth, replace(detections, scores=detections.scores * 3 - 1))
    with pytest.raises(DataError, match=r"scores from 0 to 1, got -1 to 2"):
        calibration(ground_truth, logits)
