"""The match table, entry by entry, against what pycocotools keeps of its own matching."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from detcli.evaluation import match
from tests.evaluation.oracle import large_data_set, run_pycocotools, small_data_sets


def assert_same_matches(ground_truth, detections):
    table = match(ground_truth, detections)
    theirs = run_pycocotools(ground_truth, detections)
    labels = detections.labels[table.rows]
    bits = np.arange(10)
    seen = 0
    for entry in theirs.evalImgs:
        if entry is None:
            continue
        area = theirs.params.areaRng.index(entry["aRng"])
        image = ground_truth.image_ids.tolist().index(entry["image_id"])
        label = ground_truth.category_ids.index(entry["category_id"])
        here = np.flatnonzero((table.image == image) & (labels == label))
        here = here[np.argsort(table.rank[here])]
        matched = entry["dtMatches"].T > 0  # (D, T)
        ignored = entry["dtIgnore"].T.astype(bool)
        np.testing.assert_array_equal(detections.scores[table.rows[here]], entry["dtScores"])
        np.testing.assert_array_equal(
            (table.true_positive[here, area, None] >> bits) & 1, matched & ~ignored
        )
        np.testing.assert_array_equal((table.ignored[here, area, None] >> bits) & 1, ignored)
        if area == 0:
            np.testing.assert_array_equal(table.matched_object[here] + 1, entry["dtMatches"].T)
            seen += len(here)
        counted = [
            i - 1 for i, flag in zip(entry["gtIds"], entry["gtIgnore"], strict=True) if not flag
        ]
        mine = np.flatnonzero(
            table.object_counts[:, area]
            & (ground_truth.image_index == image)
            & (ground_truth.labels == label)
        )
        assert sorted(counted) == mine.tolist()
    assert seen == len(table.rows)


@settings(max_examples=150, deadline=None)
@given(small_data_sets())
def test_matches_equal_pycocotools_on_small_data_sets(data_set):
    assert_same_matches(*data_set)


@pytest.mark.parametrize("seed", [10, 11])
def test_matches_equal_pycocotools_on_large_data_sets(seed):
    assert_same_matches(*large_data_set(seed))


def test_table_is_sorted_by_class_score_image_id_and_input_order():
    ground_truth, detections = large_data_set(3)
    table = match(ground_truth, detections)
    label, score = detections.labels[table.rows], detections.scores[table.rows]
    image_id = ground_truth.image_ids[table.image]
    order = np.lexsort((table.rows, image_id, -score, label))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    counts = np.bincount(label, minlength=len(ground_truth.class_names))
    np.testing.assert_array_equal(np.diff(table.class_offsets), counts)
