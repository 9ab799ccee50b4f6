"""The twelve numbers equal pycocotools' (PEERS: mAP that differs from pycocotools)."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from detcli.errors import DataError
from detcli.evaluation import METRIC_NAMES, evaluate_coco
from tests.evaluation.oracle import (
    COCO100,
    STATS,
    detections_of,
    ground_truth_of,
    large_data_set,
    read_coco100,
    run_pycocotools,
    small_data_sets,
)


def assert_equals_pycocotools(ground_truth, detections):
    result = evaluate_coco(ground_truth, detections)
    theirs = run_pycocotools(ground_truth, detections)
    ours = [-1 if result.metrics[name] is None else result.metrics[name] for name in STATS]
    np.testing.assert_allclose(ours, theirs.stats, rtol=0, atol=1e-12)

    categories = sorted(ground_truth.category_ids)
    for name, category in zip(ground_truth.class_names, ground_truth.category_ids, strict=True):
        k = categories.index(category)
        expected = (
            theirs.eval["precision"][:, :, k, 0, 2].mean(),
            theirs.eval["precision"][0, :, k, 0, 2].mean(),
            theirs.eval["recall"][:, k, 0, 2].mean(),
        )
        got = [result.per_class[name][key] for key in ("AP", "AP50", "AR100")]
        got = [-1 if value is None else value for value in got]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    return result


@settings(max_examples=300, deadline=None)
@given(small_data_sets())
def test_equals_pycocotools_on_small_data_sets(data_set):
    assert_equals_pycocotools(*data_set)


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_with_over_100_detections_of_a_class(seed):
    ground_truth, detections = large_data_set(seed)
    result = assert_equals_pycocotools(ground_truth, detections)
    assert any("beyond the best 100" in note for note in result.notes)
    assert 0.01 < result.metrics["AP"] < 0.99


def test_known_answers_of_coco100():
    ground_truth, detections = read_coco100()
    expected = json.loads((COCO100 / "expected.json").read_text())["bbox"]
    metrics = evaluate_coco(ground_truth, detections).metrics
    assert len(expected) == len(METRIC_NAMES)
    for name, value in zip(METRIC_NAMES, expected.values(), strict=True):
        assert metrics[name] == pytest.approx(value, abs=1e-12), name


def one_object(**changes):
    columns = {"area": [400.0], "crowd": [False], "difficult": [False], "num_classes": 2}
    return ground_truth_of([7], [0], [[10, 10, 20, 20]], [0], **{**columns, **changes})


def test_no_detections_give_zeros_and_undefined_figures_none():
    result = evaluate_coco(one_object(), detections_of(1, [], [], [], []))
    assert result.metrics["AP"] == result.metrics["AR100"] == result.metrics["APs"] == 0.0
    assert result.metrics["APm"] is None
    assert result.metrics["ARl"] is None
    assert result.per_class["class 1"] == {"AP": None, "AP50": None, "AR100": None, "objects": 0}
    assert (result.images, result.detections) == (1, 0)
    assert "1 of 2 classes" in result.notes[0]
    assert "class 1" in result.notes[0]


def test_no_ground_truth_at_all():
    ground_truth = ground_truth_of(
        [3, 1], [], [], [], area=[], crowd=[], difficult=[], num_classes=2
    )
    result = evaluate_coco(ground_truth, detections_of(2, [1], [[0, 0, 5, 5]], [0], [0.5]))
    assert set(result.metrics.values()) == {None}


def test_difficult_object_neither_counts_nor_costs():
    found = detections_of(1, [0, 0], [[10, 10, 20, 20], [100, 100, 20, 20]], [0, 0], [0.9, 0.8])
    two = ground_truth_of(
        [1],
        [0, 0],
        [[10, 10, 20, 20], [100, 100, 20, 20]],
        [0, 0],
        area=[400, 400],
        crowd=[False] * 2,
        difficult=[True, False],
        num_classes=1,
    )
    result = evaluate_coco(two, found)
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.per_class["class 0"]["objects"] == 1
    # A second detection of the same difficult object is a false positive: one match each.
    twice = detections_of(
        1,
        [0] * 3,
        [[10, 10, 20, 20], [10, 10, 20, 20], [100, 100, 20, 20]],
        [0] * 3,
        [0.9, 0.85, 0.8],
    )
    assert evaluate_coco(two, twice).metrics["AP"] == pytest.approx(0.5)
    # A crowd region takes any number of them.
    crowd = replace(two, crowd=np.array([True, False]), difficult=np.zeros(2, bool))
    assert evaluate_coco(crowd, twice).metrics["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        (detections_of(2, [1], [[0, 0, 1, 1]], [0], [0.5]), "2 images"),
        (detections_of(1, [0], [[0, 0, 1, 1]], [2], [0.5]), "label 2: expected 0 to 1"),
        (detections_of(1, [0], [[0, 0, 1, 1]], [-1], [0.5]), "label -1"),
        (detections_of(1, [0, 0], np.ones((2, 4)), [0, 0], [0.5, np.nan]), "image id 7"),
        (detections_of(1, [0], [[0, np.inf, 1, 1]], [0], [0.5]), "not finite"),
    ],
)
def test_unusable_detections_are_refused(detections, message):
    with pytest.raises(DataError, match=message):
        evaluate_coco(one_object(), detections)


def test_repeated_class_names_are_refused():
    ground_truth = replace(one_object(), class_names=("cup", "cup"))
    with pytest.raises(DataError, match="repeated: cup"):
        evaluate_coco(ground_truth, detections_of(1, [], [], [], []))


def test_read_only_arrays_are_accepted():
    ground_truth, detections = large_data_set(0, num_images=2)
    expected = evaluate_coco(ground_truth, detections)
    for table in (ground_truth, detections):
        for value in vars(table).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
    assert evaluate_coco(ground_truth, detections) == expected
