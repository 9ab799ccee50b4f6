"""Resampling by weights equals evaluating images that are repeated explicitly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.errors import UsageError
from detcli.evaluation import METRIC_NAMES, bootstrap, evaluate_coco, match
from detcli.evaluation.resample import Resampled
from tests.evaluation.oracle import (
    detections_of,
    ground_truth_of,
    large_data_set,
    run_pycocotools,
    small_data_sets,
)
from tests.evaluation.repeat import repeat_images


def as_floats(values):
    return [np.nan if value is None else value for value in values]


def assert_equals_repeated_images(ground_truth, detections, multiplicity, *, pycocotools):
    table = match(ground_truth, detections)
    measure = Resampled(ground_truth, [table], METRIC_NAMES, per_class=True)
    weighted = measure(np.asarray([multiplicity], np.int32))[0, :, 0]
    repeated = repeat_images(ground_truth, detections, multiplicity)
    expected = evaluate_coco(*repeated)
    figures = [*expected.metrics.values(), *(row["AP"] for row in expected.per_class.values())]
    np.testing.assert_allclose(weighted, as_floats(figures), rtol=0, atol=1e-12)
    if pycocotools:
        theirs = run_pycocotools(*repeated).stats
        theirs[theirs == -1] = np.nan
        np.testing.assert_allclose(weighted[: len(METRIC_NAMES)], theirs, rtol=0, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_repeated_images_on_small_data_sets(data):
    """Crowds, difficult objects, equal scores and classes that a resample lacks all occur."""
    ground_truth, detections = data.draw(small_data_sets())
    count = ground_truth.num_images
    drawn = data.draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=2 * count))
    multiplicity = np.bincount(drawn, minlength=count)
    assert_equals_repeated_images(ground_truth, detections, multiplicity, pycocotools=True)


@pytest.mark.parametrize("seed", range(3))
def test_equals_repeated_images_with_many_detections(seed):
    ground_truth, detections = large_data_set(seed, num_images=12)
    drawn = np.random.default_rng(seed).integers(0, 12, 12)
    multiplicity = np.bincount(drawn, minlength=12)
    assert multiplicity.max() > 1
    assert_equals_repeated_images(ground_truth, detections, multiplicity, pycocotools=True)


def test_copies_of_an_image_with_equal_scores_alternate():
    """Wrong, right, wrong, right: not both wrong ones first."""
    ground_truth = ground_truth_of(
        [5],
        [0],
        [[0, 0, 40, 40]],
        [0],
        area=[1600],
        crowd=[False],
        difficult=[False],
        num_classes=1,
    )
    detections = detections_of(1, [0, 0], [[90, 90, 9, 9], [0, 0, 40, 40]], [0, 0], [0.5, 0.5])
    measure = Resampled(ground_truth, [match(ground_truth, detections)], ["AP"], per_class=False)
    assert measure(np.array([[1], [4]], np.int32))[0, 0] == pytest.approx([0.5, 0.5])
    first = detections_of(1, [0, 0], [[0, 0, 40, 40], [90, 90, 9, 9]], [0, 0], [0.5, 0.5])
    measure = Resampled(ground_truth, [match(ground_truth, first)], ["AP"], per_class=False)
    # Objects 1 and 2 at precision 1 and 2 / 3; recall 0.5 is reached by 51 of 101 thresholds.
    assert measure(np.array([[2]], np.int32))[0, 0] == pytest.approx([(51 + 50 * 2 / 3) / 101])


def test_every_recall_threshold_is_met_as_pycocotools_meets_it():
    """found / objects < threshold in floating point: 0.35 is below linspace's 35th threshold."""
    for count in (20, 40, 100):
        boxes = np.tile([0.0, 0, 40, 40], (count, 1))
        boxes[:, 0] = 50 * np.arange(count)
        ground_truth = ground_truth_of(
            np.arange(count),
            np.arange(count),
            boxes,
            np.zeros(count),
            area=np.full(count, 1600),
            crowd=np.zeros(count),
            difficult=np.zeros(count),
            num_classes=1,
        )
        for found in (0.35, 0.55, 0.95):
            shown = round(found * count)
            detections = detections_of(
                count, np.arange(shown), boxes[:shown], np.zeros(shown), np.ones(shown)
            )
            assert_equals_repeated_images(
                ground_truth, detections, np.ones(count, np.int64), pycocotools=True
            )


def two_systems(num_images=30):
    ground_truth, detections = large_data_set(1, num_images=num_images, boxes_per_image=40)
    rows = np.flatnonzero(np.random.default_rng(0).random(len(detections.scores)) < 0.7)
    return ground_truth, [
        match(ground_truth, detections),
        match(ground_truth, detections.take(rows)),
    ]


def test_intervals_differences_and_p_values_follow_the_samples():
    ground_truth, tables = two_systems()
    added = []
    result = bootstrap(
        ground_truth,
        tables,
        metrics=("AP50", "AR10"),
        per_class=True,
        resamples=50,
        seed=3,
        progress=added.append,
    )
    assert sum(added) == result.resamples == 50
    whole = Resampled(ground_truth, tables, ["AP50", "AR10"], per_class=False)
    ones = np.ones((1, ground_truth.num_images), np.int32)
    for m, name in enumerate(("AP50", "AR10")):
        samples = result.samples[name]
        assert samples.shape == (2, 50)
        for system, row in zip(result.systems, samples, strict=True):
            assert system[name].mean == row.mean()
            assert [system[name].low, system[name].high] == pytest.approx(
                np.percentile(row, [2.5, 97.5])
            )
        difference = samples[1] - samples[0]
        got = result.differences[1][name]
        value = whole(ones)[:, m, 0]
        assert got.value == value[1] - value[0]
        assert got.mean == pytest.approx(difference.mean())
        tail = min((difference <= 0).sum(), (difference >= 0).sum())
        assert got.p == pytest.approx(min(1, 2 * (tail + 1) / 51))
        none = result.differences[0][name]
        assert (none.value, none.low, none.high, none.p) == (0.0, 0.0, 0.0, 1.0)
    assert tuple(result.class_systems[0]) == ground_truth.class_names
    assert result.class_systems[0]["class 4"].value is None  # it has no object
    assert result.class_differences[1]["class 4"].p is None
    assert result.class_differences[1]["class 0"].value < 0


def test_value_is_that_of_the_evaluation():
    ground_truth, detections = large_data_set(2)
    result = bootstrap(
        ground_truth, [match(ground_truth, detections)], metrics=METRIC_NAMES, resamples=1
    )
    expected = evaluate_coco(ground_truth, detections).metrics
    assert tuple(result.systems[0]) == METRIC_NAMES
    for name in METRIC_NAMES:
        assert result.systems[0][name].value == pytest.approx(expected[name], abs=1e-12)


def test_a_seed_fixes_the_resamples_and_more_of_them_begin_with_the_same():
    ground_truth, tables = two_systems()
    few = bootstrap(ground_truth, tables, resamples=20, seed=7).samples["AP"]
    more = bootstrap(ground_truth, tables, resamples=45, seed=7).samples["AP"]
    np.testing.assert_array_equal(few, more[:, :20])
    other = bootstrap(ground_truth, tables, resamples=20, seed=8).samples["AP"]
    assert (few != other).any()


def test_interval_agrees_with_the_standard_error_of_a_proportion():
    """One object per image, found or not: AR1 is a proportion, AP follows it."""
    count, share = 400, 0.3
    boxes = np.tile([0.0, 0, 40, 40], (count, 1))
    ground_truth = ground_truth_of(
        np.arange(count),
        np.arange(count),
        boxes,
        np.zeros(count),
        area=np.full(count, 1600),
        crowd=np.zeros(count),
        difficult=np.zeros(count),
        num_classes=1,
    )
    shown = np.arange(int(share * count))
    detections = detections_of(
        count, shown, boxes[shown], np.zeros(len(shown)), np.ones(len(shown))
    )
    table = match(ground_truth, detections)
    figure = bootstrap(ground_truth, [table], metrics=["AR1"], resamples=2000).systems[0]["AR1"]
    half_width = 1.96 * np.sqrt(share * (1 - share) / count)
    assert figure.value == pytest.approx(share)
    assert figure.low == pytest.approx(share - half_width, abs=0.005)
    assert figure.high == pytest.approx(share + half_width, abs=0.005)


def test_no_detections_give_zeros():
    ground_truth, detections = large_data_set(2)
    nothing = match(ground_truth, detections_of(20, [], [], [], []))
    result = bootstrap(ground_truth, [match(ground_truth, detections), nothing], resamples=20)
    assert result.systems[1]["AP"].high == 0.0
    assert result.differences[1]["AP"].p == pytest.approx(2 / 21)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["mAP"]}, "metric 'mAP' is unknown; it must be one of AP, AP50"),
        ({"baseline": 2}, "baseline 2 of 2 systems"),
        ({"resamples": 0}, "at least 1 resample, got 0"),
    ],
)
def test_impossible_requests_are_refused(changes, message):
    ground_truth, tables = two_systems(4)
    with pytest.raises(UsageError, match=message):
        bootstrap(ground_truth, tables, **changes)


def test_at_least_one_system_is_needed():
    ground_truth, _ = two_systems(4)
    with pytest.raises(UsageError, match="got 0 systems and 4 images"):
        bootstrap(ground_truth, [])
