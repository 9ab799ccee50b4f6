"""soft lowers scores as ensemble-boxes' inner function does, and as the formulas say by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ensemble_boxes.ensemble_boxes_nms import cpu_soft_nms_float
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.postprocess.tables import crowded_tables, detections_from_xyxy, suppress

KINDS = {"linear": 1, "gaussian": 2}


def soft_of(*boxes, scores, **options):
    table = detections_from_xyxy([len(boxes)], boxes, scores, [0] * len(boxes))
    return suppress(table, method="soft", **options).scores.tolist()


@settings(max_examples=80, deadline=None)
@given(
    crowded_tables(ties=False),
    st.sampled_from(list(KINDS)),
    st.sampled_from([0.1, 0.5]),
    st.sampled_from([0.05, 0.5]),
    st.sampled_from([0.001, 0.2]),
)
def test_lowered_scores_equal_those_of_ensemble_boxes(table, kind, iou, sigma, score_threshold):
    """Its public function returns the scores as they were, hence the inner one; it changes the
    array of scores in place and returns the rows in the order of that array."""
    options = {"kind": kind, "sigma": sigma, "score_threshold": score_threshold}
    got = suppress(table, method="soft", iou_threshold=iou, max_per_image=1000, **options)
    lowered = np.zeros(len(table.scores))
    for group in np.unique(np.stack([table.image_index, table.labels]), axis=1).T:
        rows = np.flatnonzero((table.image_index == group[0]) & (table.labels == group[1]))
        rows = rows[table.boxes_xywh[rows, 2:].prod(axis=1) > 0]  # it divides by their areas
        boxes = table.boxes_xywh[rows].copy()
        boxes[:, 2:] += boxes[:, :2]
        scores = table.scores[rows].copy()
        if len(rows) > 0:
            kept = cpu_soft_nms_float(boxes, scores, iou, sigma, score_threshold, KINDS[kind])
            lowered[rows[kept]] = scores[scores > score_threshold]
    number = got.extra["number"].astype(np.int64)
    solid = table.boxes_xywh[number, 2:].prod(axis=1) > 0
    np.testing.assert_allclose(got.scores[solid], lowered[number[solid]], rtol=1e-12)
    assert (lowered > 0).sum() == solid.sum()


def test_by_hand():
    """An IoU of exactly 1/2, scores 0.8 and 0.6."""
    pair = ([0, 0, 2, 1], [0, 0, 1, 1])
    assert soft_of(*pair, scores=[0.75, 0.5], sigma=0.5) == pytest.approx(
        [0.75, 0.5 * np.exp(-0.25 / 0.5)]
    )
    linear = {"scores": [0.75, 0.5], "kind": "linear"}
    assert soft_of(*pair, iou_threshold=0.49, **linear) == pytest.approx([0.75, 0.25])
    assert soft_of(*pair, iou_threshold=0.5, **linear) == [0.75, 0.5]
    # At the score threshold a box leaves: lowered to it, or lying at it from the start.
    at_threshold = {"iou_threshold": 0.3, "score_threshold": 0.25, **linear}
    assert soft_of(*pair, **at_threshold) == [0.75]
    apart = ([0, 0, 2, 1], [5, 5, 6, 6])
    assert soft_of(*apart, **{**at_threshold, "scores": [0.75, 0.25]}) == [0.75]
    # The centres are 1/2 apart and the diagonal is the root of 5: the penalty is 1/20.
    assert soft_of(*pair, metric="diou", **linear) == pytest.approx([0.75, 0.5 * 0.55])


def test_the_next_box_is_the_best_after_lowering():
    """The second box falls below the third, which then lowers it further."""
    boxes = ([0, 0, 4, 1], [1, 0, 5, 1], [2.5, 0, 6.5, 1])
    got = soft_of(*boxes, scores=[1.0, 0.75, 0.5], kind="linear", iou_threshold=0.3)
    assert got == pytest.approx([1.0, 0.5, 0.75 * (1 - 3 / 5) * (1 - 2.5 / 5.5)])
