"""False positives per image, recall and precision from a score on, with their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from detcli.errors import UsageError
from detcli.evaluation import (
    OPERATING_METRICS,
    best_score,
    match,
    operating_points,
    score_at_recall,
)
from detcli.evaluation.bootstrap import CHUNK, draw_images, mean_difference
from detcli.types import Detections, GroundTruth
from tests.cli.predicted import find_candidates, write_data_set
from tests.postprocess.tables import suppress


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[GroundTruth, list[Detections]]:
    truth = write_data_set(tmp_path_factory.mktemp("data"), num_images=30)
    systems = [
        suppress(find_candidates(truth, noise_px=noise, seed=seed), method="nms")
        for noise, seed in ((3.0, 1), (10.0, 2))
    ]
    return truth, systems


def by_hand(
    truth: GroundTruth, detections: Detections, score: float, images: list[int]
) -> tuple[float, float, float]:
    """A plain loop: in each image and class the best detections first, each takes the free object
    of largest IoU, if that is 0.5 or more."""
    true = false = objects = 0
    for image in images:
        mine = slice(*truth.offsets[image : image + 2])
        for label in range(len(truth.class_names)):
            boxes = truth.boxes_xywh[mine][truth.labels[mine] == label]
            objects += len(boxes)
            free = [True] * len(boxes)
            rows = range(*detections.offsets[image : image + 2])
            rows = [row for row in rows if detections.labels[row] == label]
            for row in sorted(rows, key=lambda row: -detections.scores[row]):
                if detections.scores[row] < score:
                    break
                ious = [
                    iou(detections.boxes_xywh[row], box) * is_free
                    for box, is_free in zip(boxes, free, strict=True)
                ]
                if ious and max(ious) >= 0.5:
                    free[int(np.argmax(ious))] = False
                    true += 1
                else:
                    false += 1
    return false / len(images), true / objects, true / (true + false)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = [max(0.0, min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    common = sides[0] * sides[1]
    return float(common / (a[2] * a[3] + b[2] * b[3] - common))


@pytest.mark.parametrize("score", [0.0, 0.2, 0.4, 0.6])
def test_figures_and_resamples_equal_a_plain_loop(
    score: float, found: tuple[GroundTruth, list[Detections]]
) -> None:
    truth, systems = found
    tables = [match(truth, detections) for detections in systems]
    points = operating_points(truth, tables, scores=[score] * 2, resamples=3, seed=7)
    everything = list(range(truth.num_images))
    for s, detections in enumerate(systems):
        expected = by_hand(truth, detections, score, everything)
        got = [points.systems[s][name].value for name in OPERATING_METRICS]
        assert got == pytest.approx(expected, abs=1e-12)
    drawn = draw_images(truth.num_images, np.random.SeedSequence(7).spawn(1)[0])
    for resample in range(3):
        images = np.repeat(np.arange(truth.num_images), drawn[resample]).tolist()
        for s, detections in enumerate(systems):
            expected = by_hand(truth, detections, score, images)
            got = [points.samples[name][s, resample] for name in OPERATING_METRICS]
            assert got == pytest.approx(expected, abs=1e-12)


def test_the_interval_is_of_the_paired_difference(
    found: tuple[GroundTruth, list[Detections]],
) -> None:
    truth, systems = found
    tables = [match(truth, detections) for detections in systems]
    points = operating_points(truth, tables, scores=[0.3] * 2, resamples=500)
    name = "false_positives_per_image"
    delta = points.differences[1][name]
    samples = points.samples[name][1] - points.samples[name][0]
    assert (delta.low, delta.high) == pytest.approx(np.quantile(samples, [0.025, 0.975]))
    assert 0 < delta.low < delta.value < delta.high  # ten pixels of noise against three
    assert points.differences[1]["recall"].high < 0
    assert mean_difference(points, name, [1], [0]) == delta
    same = operating_points(truth, [tables[0], tables[0]], scores=[0.3] * 2, resamples=50)
    assert (same.differences[1][name].low, same.differences[1][name].high) == (0, 0)


def test_it_draws_the_images_that_bootstrap_draws(
    found: tuple[GroundTruth, list[Detections]],
) -> None:
    """Also where the number of resamples is no multiple of a chunk."""
    truth, systems = found
    table = [match(truth, systems[0])]
    few = operating_points(truth, table, scores=[0.3], resamples=CHUNK + 1)
    many = operating_points(truth, table, scores=[0.3], resamples=3 * CHUNK)
    for name in OPERATING_METRICS:
        assert few.samples[name].shape == (1, CHUNK + 1)
        assert np.array_equal(few.samples[name], many.samples[name][:, : CHUNK + 1])


def test_what_is_not_defined_is_none(found: tuple[GroundTruth, list[Detections]]) -> None:
    truth, _ = found
    empty = truth.take_images(np.flatnonzero(np.diff(truth.offsets) == 0))
    assert len(empty.labels) == 0
    nothing = Detections(
        np.zeros(empty.num_images + 1, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
    )
    figures = operating_points(empty, [match(empty, nothing)], scores=[0.5], resamples=5).systems[0]
    assert figures["false_positives_per_image"].value == 0
    assert figures["recall"].value is None
    assert figures["precision"].value is None
    with pytest.raises(UsageError, match="best score: no detection"):
        best_score(match(empty, nothing))


def test_the_best_score_has_the_largest_f1(found: tuple[GroundTruth, list[Detections]]) -> None:
    truth, systems = found
    for detections in systems:
        table = match(truth, detections)

        def f1(score: float, table: object = table) -> float:
            point = operating_points(truth, [table], scores=[score], resamples=20).systems[0]
            precision, recall = point["precision"].value, point["recall"].value
            return 2 * precision * recall / (precision + recall) if recall else 0.0

        best = best_score(table)
        scores = np.unique(table.scores)
        assert best in scores
        assert f1(best) == pytest.approx(max(map(f1, scores)))


@pytest.mark.parametrize(
    "changes",
    [{"scores": [1.5]}, {"resamples": 0}, {"tables": [], "scores": []}],
    ids=lambda each: next(iter(each)),
)
def test_what_makes_no_sense_is_refused(
    changes: dict, found: tuple[GroundTruth, list[Detections]]
) -> None:
    truth, systems = found
    keywords = {"tables": [match(truth, systems[0])], "scores": [0.5], "resamples": 5} | changes
    with pytest.raises(UsageError, match="operating point: expected"):
        operating_points(truth, keywords.pop("tables"), **keywords)


@pytest.mark.parametrize("recall", [0.0, 0.25, 0.5, 0.9])
def test_the_score_of_a_recall_is_the_highest_that_reaches_it(
    recall: float, found: tuple[GroundTruth, list[Detections]]
) -> None:
    truth, systems = found
    table = match(truth, systems[0])
    score = score_at_recall(table, recall)
    higher = table.scores[table.scores > score]

    def reached(score: float) -> float:
        point = operating_points(truth, [table], scores=[score], resamples=20).systems[0]
        return point["recall"].value

    assert reached(score) >= recall
    if len(higher) and recall:
        assert reached(higher.min()) < recall


def test_each_system_has_its_own_score(found: tuple[GroundTruth, list[Detections]]) -> None:
    truth, systems = found
    tables = [match(truth, detections) for detections in systems]
    both = operating_points(truth, tables, scores=[0.3, 0.6], resamples=20)
    alone = operating_points(truth, tables[1:], scores=[0.6], resamples=20)
    assert both.systems[1] == alone.systems[0]


def test_a_recall_that_is_not_reached_is_said(found: tuple[GroundTruth, list[Detections]]) -> None:
    truth, systems = found
    with pytest.raises(UsageError, match=r"recall 1\.1: the detections reach [01]\.\d+ at most"):
        score_at_recall(match(truth, systems[1]), 1.1)
