"""Kinds of errors and their cost: worked examples, and figures of tidecv 1.0.1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from detcli.evaluation import (
    ERROR_KINDS,
    SPECIAL_KINDS,
    error_report,
    evaluate_coco,
    match,
    wrong_detections,
)
from tests.evaluation.oracle import (
    detections_of,
    ground_truth_of,
    large_data_set,
    read_coco100,
    small_data_sets,
)


def report_of(ground_truth, detections):
    return error_report(ground_truth, detections, match(ground_truth, detections))


def two_objects(boxes, labels, scores):
    truth = ground_truth_of(
        [1],
        [0, 0],
        [[0, 0, 20, 20], [100, 0, 20, 20]],
        [0, 1],
        area=[400] * 2,
        crowd=[False] * 2,
        difficult=[False] * 2,
        num_classes=2,
    )
    return report_of(truth, detections_of(1, [0] * len(boxes), boxes, labels, scores))


FIRST, SECOND = [0, 0, 20, 20], [100, 0, 20, 20]


@pytest.mark.parametrize(
    ("kind", "box", "label", "gain"),
    [
        ("classification", FIRST, 1, 0.75),  # it also stood before the true second object
        ("localisation", [0, 0, 20, 8], 0, 0.5),
        ("localisation", [0, 0, 20, 2], 0, 0.5),  # an IoU of 0.1 is enough
        ("both", [0, 0, 20, 8], 1, 0.25),
        ("background", [0, 0, 20, 1], 1, 0.25),
        ("background", [0, 0, 20, 2], 1, 0.25),  # an IoU of 0.1 with another class is not enough
        ("duplicate", [100, 0, 20, 18], 1, 0.0),
    ],
)
def test_one_error_of_each_kind(kind, box, label, gain):
    score = 0.5 if kind == "duplicate" else 0.95
    report = two_objects([box, SECOND], [label, 1], [score, 0.9])
    assert report.count[kind] == 1
    assert sum(report.count.values()) == 1 + (kind not in ("classification", "localisation"))
    assert report.cost[kind] == pytest.approx(gain)


def test_missed_object():
    report = two_objects([FIRST], [0], [0.9])
    assert report.count == dict.fromkeys(ERROR_KINDS, 0) | {"missed": 1}
    assert pytest.approx(0.5) == report.AP50
    # The second class has neither objects nor detections left and does not count any more.
    assert report.cost["missed"] == report.special["false negatives"] == pytest.approx(0.5)
    assert report.special["false positives"] == pytest.approx(0.0)


def test_only_the_best_of_several_errors_mends_an_object():
    """The better of the two is a localisation error, so mending classes only removes the other."""
    boxes = [[0, 0, 20, 8], FIRST, SECOND]
    report = two_objects(boxes, [0, 1, 1], [0.9, 0.8, 0.95])
    assert report.count["localisation"] == report.count["classification"] == 1
    assert report.cost["localisation"] == pytest.approx(0.5)
    assert report.cost["classification"] == pytest.approx(0.0)
    assert report.count["missed"] == 0


def test_false_positives_rank_last():
    report = two_objects([[50, 50, 9, 9], FIRST, SECOND], [0, 0, 1], [0.9, 0.5, 0.5])
    assert pytest.approx(0.75) == report.AP50
    assert report.special["false positives"] == pytest.approx(0.25)


@settings(max_examples=60, deadline=None)
@given(small_data_sets())
def test_every_false_positive_and_no_found_object_has_a_kind(data_set):
    ground_truth, detections = data_set
    table = match(ground_truth, detections)
    report = error_report(ground_truth, detections, table)
    wrong = (table.true_positive[:, 0] | table.ignored[:, 0]) & 1 == 0
    assert sum(report.count[kind] for kind in ERROR_KINDS[:-1]) == wrong.sum()
    found = (table.true_positive[:, 0] & 1).sum()
    assert report.count["missed"] <= table.object_counts[:, 0].sum() - found
    expected = evaluate_coco(ground_truth, detections).metrics["AP50"]
    assert (None if expected is None else pytest.approx(expected, abs=1e-12)) == report.AP50
    assert tuple(report.cost) == ERROR_KINDS
    assert tuple(report.special) == SPECIAL_KINDS
    for gain in report.cost.values():
        assert (gain is None) if expected is None else (0 <= gain <= 1 - report.AP50 + 1e-12)


def test_no_detections_miss_everything():
    ground_truth, _ = large_data_set(0, num_images=4)
    report = report_of(ground_truth, detections_of(4, [], [], [], []))
    assert report.AP50 == 0.0
    assert report.cost == dict.fromkeys(ERROR_KINDS, 0.0) | {"missed": 1.0}
    assert report.special == {"false positives": 0.0, "false negatives": 1.0}


# By tidecv 1.0.1 (TIDE().evaluate(..., mode=TIDE.BOX)) on large_data_set(seed, num_images=30,
# boxes_per_image=40) without crowds, difficult objects, equal scores and detections of the class
# that has no object: AP50, cost, special, count.
TIDECV = {
    0: (
        0.28340815239702316,
        (
            0.03782700111225502,
            0.022280767303976604,
            0.024120813521343435,
            0.03243598797849387,
            0.14920659452791696,
            0.023315018520722434,
        ),
        (0.5482750159198085, 0.04776715816160348),
        (79, 39, 78, 277, 377, 17),
    ),
    2: (
        0.2816786074486314,
        (
            0.06145428332495324,
            0.008859009697326493,
            0.022825354052531673,
            0.04184623909584897,
            0.1165689696072803,
            0.026898985603335,
        ),
        (0.5450540658186953, 0.05598639522170192),
        (82, 37, 76, 305, 368, 21),
    ),
}


@pytest.mark.parametrize("seed", TIDECV)
def test_figures_of_tidecv_on_a_generated_data_set(seed):
    ground_truth, detections = large_data_set(seed, num_images=30, boxes_per_image=40)
    none = np.zeros(len(ground_truth.labels), bool)
    scores = np.random.default_rng(seed).random(len(detections.scores))
    detections = replace(detections, scores=scores)
    report = report_of(
        replace(ground_truth, crowd=none, difficult=none),
        detections.take(np.flatnonzero(detections.labels < 4)),
    )
    ap50, cost, special, count = TIDECV[seed]
    assert pytest.approx(ap50, abs=1e-12) == report.AP50
    assert tuple(report.cost.values()) == pytest.approx(cost, abs=1e-12)
    assert tuple(report.special.values()) == pytest.approx(special, abs=1e-12)
    assert tuple(report.count.values()) == count


def test_figures_of_tidecv_on_coco100():
    """Without detections of classes that have no object: tidecv counts such classes as 0.

    What remains comes from its recall thresholds (0.35, not linspace's 0.35000000000000003) and
    from equal scores, which it reorders when it mends something.
    """
    ground_truth, detections = read_coco100()
    counted = ground_truth.labels[~ground_truth.crowd]
    present = np.bincount(counted, minlength=len(ground_truth.class_names)) > 0
    report = report_of(ground_truth, detections.take(np.flatnonzero(present[detections.labels])))
    assert pytest.approx(0.6970827, abs=1.5e-4) == report.AP50
    cost = (0.1556878, 0.0024742, 0.0, 0.0002060, 0.0, 0.1055877)
    assert tuple(report.cost.values()) == pytest.approx(cost, abs=2e-4)
    assert tuple(report.special.values()) == pytest.approx((0.0740630, 0.1930256), abs=2e-4)
    assert tuple(report.count.values()) == (74, 1, 0, 1, 0, 106)


@given(small_data_sets())
@settings(max_examples=30, deadline=None)
def test_wrong_detections_are_those_that_are_counted(data):
    truth, detections = data
    table = match(truth, detections)
    rows, kinds = wrong_detections(truth, detections, table)
    counts = error_report(truth, detections, table).count
    assert [int((kinds == place).sum()) for place in range(5)] == [
        counts[kind] for kind in ERROR_KINDS[:-1]
    ]
    assert len(set(rows.tolist())) == len(rows)
    assert (np.diff(detections.scores[rows]) <= 0).all()
