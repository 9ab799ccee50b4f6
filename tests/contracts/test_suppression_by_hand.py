"""Small cases whose results follow from the formulas without a computer."""

from __future__ import annotations

import numpy as np
import pytest

from tests.postprocess.tables import detections_from_xyxy, suppress

# IoU 1/2 with each other; their centres are 1/2 apart, the enclosing diagonal is sqrt(5).
WIDE, NARROW = [0, 0, 2, 1], [0, 0, 1, 1]


def run(method, boxes, scores, *, columns=None, labels=None, **options):
    labels = [0] * len(boxes) if labels is None else labels
    table = detections_from_xyxy([len(boxes)], boxes, scores, labels, **(columns or {}))
    got = suppress(table, method=method, **options)
    return got.boxes_xywh.tolist(), got.scores.tolist()


def test_diou_keeps_boxes_with_distant_centres():
    for threshold, kept in ((0.44, 1), (0.46, 2)):  # around 1/2 - (1/2)^2 / 5 = 0.45
        boxes, _ = run("diou", [WIDE, NARROW], [0.75, 0.5], iou_threshold=threshold)
        assert len(boxes) == kept
    assert len(run("nms", [WIDE, NARROW], [0.75, 0.5], iou_threshold=0.46)[0]) == 1


def test_weighted_is_the_mean_by_score_and_iou():
    boxes, scores = run("weighted", [WIDE, NARROW], [0.75, 0.5], iou_threshold=0.4)
    width = (0.75 * 2 + 0.5 * 0.5 * 1) / (0.75 + 0.5 * 0.5)
    assert boxes == [[0, 0, width, 1]]
    assert scores == [0.75]


def test_weighted_ignores_negative_scores():
    boxes, scores = run("weighted", [WIDE, NARROW], [-0.25, -0.5], iou_threshold=0.4)
    assert (boxes, scores) == ([[0, 0, 2, 1]], [-0.25])


def test_nmw_joins_the_best_and_weighted_the_first():
    first, second, between = [0, 0, 10, 10], [6, 0, 16, 10], [4, 0, 14, 10]
    joined = {}
    for method in ("weighted", "nmw"):
        boxes, _ = run(method, [first, second, between], [0.75, 0.5, 0.25], iou_threshold=0.3)
        joined[method] = [box[0] for box in boxes]
    # `between` overlaps 6/14 with the first and 8/12 with the second.
    third = 0.25 * 6 / 14
    assert joined["weighted"] == pytest.approx([4 * third / (0.75 + third), 6])
    third = 0.25 * 8 / 12
    assert joined["nmw"] == pytest.approx([0, (6 * 0.5 + 4 * third) / (0.5 + third)])


def test_matrix_discounts_a_box_that_is_overlapped_itself():
    """The third box overlaps most with the second, which the first overlaps as much."""
    boxes = [[0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 0.5, 1]]
    _, scores = run("matrix", boxes, [1.0, 0.75, 0.5], kernel="linear")
    # Overlaps: 1/2, 1/4 with the first; 1/2 of the third with the second: 1/2 / (1/2) = 1.
    assert scores == pytest.approx([1.0, 0.375, 0.375])
    _, scores = run("matrix", [WIDE, WIDE, NARROW], [1.0, 0.75, 0.5], kernel="linear")
    assert scores == pytest.approx([1.0, 0.25])  # an exact duplicate is gone and does not count
    _, scores = run("matrix", [WIDE, NARROW], [1.0, 0.75], sigma=0.25)
    assert scores == pytest.approx([1.0, 0.75 * np.exp(-1)])


def test_iou_guided_keeps_the_best_placed_box_with_the_best_score():
    columns = {"iou": np.array([0.6, 0.9])}
    got = run("iou_guided", [WIDE, NARROW], [0.75, 0.5], columns=columns, iou_threshold=0.4)
    assert got == ([[0, 0, 1, 1]], [0.75])


def test_softer_weighs_sides_by_their_variance():
    """sigma_t so large that closeness hardly counts: the plain inverse-variance mean."""
    columns = {"sigma": np.array([[1.0, 1, 2, 1], [1, 1, 1, 1]])}
    boxes, scores = run(
        "softer",
        [WIDE, NARROW],
        [0.75, 0.5],
        columns=columns,
        kind="hard",
        iou_threshold=0.4,
        sigma_t=1e12,
    )
    assert boxes[0] == pytest.approx([0, 0, (2 / 4 + 1) / (1 / 4 + 1), 1])
    assert scores == [0.75]
    boxes, _ = run(
        "softer",
        [WIDE, NARROW],
        [0.75, 0.5],
        columns=columns,
        kind="hard",
        iou_threshold=0.4,
        sigma_t=1e-3,
    )
    assert boxes == [[0, 0, 2, 1]]  # exp(-250): only the box itself votes


def test_adaptive_tolerates_overlap_where_it_is_crowded():
    for density, kept in ((0.0, 1), (0.45, 1), (0.5, 2)):
        columns = {"density": np.array([density, 0.9])}
        boxes, _ = run("adaptive", [WIDE, NARROW], [0.75, 0.5], columns=columns, iou_threshold=0.4)
        assert len(boxes) == kept


def test_fusion_over_classes_keeps_the_label_of_the_first_box():
    table = detections_from_xyxy([2], [WIDE, NARROW], [0.5, 0.75], [4, 7])
    for method in ("wbf", "nmw", "weighted"):
        got = suppress(table, method=method, class_agnostic=True, iou_threshold=0.4)
        assert got.labels.tolist() == [7]
        assert len(suppress(table, method=method, iou_threshold=0.4).labels) == 2
