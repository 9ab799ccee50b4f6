"""nms keeps what torchvision keeps, class by class and image by image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou
from torchvision.ops import nms as torchvision_nms

from detcli.errors import DataError
from detcli.types import Detections
from tests.postprocess.tables import crowded, detections_from_xyxy, suppress


def expected_rows(table, xyxy, iou_threshold, *, class_agnostic, max_per_image):
    """torchvision's nms per image and class, joined in order of (score, input)."""
    rows = []
    for image in range(table.num_images):
        kept = []
        inside = np.arange(table.offsets[image], table.offsets[image + 1])
        labels = np.zeros(len(inside)) if class_agnostic else table.labels[inside]
        for label in np.unique(labels):
            group = inside[labels == label]
            boxes = torch.from_numpy(np.asarray(xyxy, np.float32).reshape(-1, 4)[group])
            scores = torch.from_numpy(table.scores[group].astype(np.float32))
            kept += group[torchvision_nms(boxes, scores, iou_threshold).numpy()].tolist()
        rows += sorted(kept, key=lambda row: (-table.scores[row], row))[:max_per_image]
    return rows


@st.composite
def candidate_sets(draw):
    """Boxes on a grid, some scaled to awkward fractions, so that IoUs lie on thresholds."""
    counts = draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))
    n = sum(counts)
    side = st.integers(0, 6)
    corners = draw(st.lists(st.tuples(side, side, side, side), min_size=n, max_size=n))
    scale, shift = draw(st.sampled_from([(1.0, 0.0), (0.1, 0.0), (7.3, 1000.3), (1 / 3, 33.3)]))
    boxes = np.asarray(corners, np.float64).reshape(-1, 4)
    xyxy = (np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) * scale + shift).astype(
        "f4"
    )
    score = st.sampled_from([-1.0, 0.0, -0.0, 0.3, 0.5, 0.9])
    scores = draw(st.lists(score, min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return detections_from_xyxy(counts, xyxy, scores, labels), xyxy


@settings(max_examples=300, deadline=None)
@given(
    candidate_sets(),
    st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.6, 1.0]),
    st.booleans(),
    st.sampled_from([1, 3, 100]),
)
def test_equals_torchvision(candidates, iou_threshold, class_agnostic, max_per_image):
    table, xyxy = candidates
    options = {"class_agnostic": class_agnostic, "max_per_image": max_per_image}
    rows = expected_rows(table, xyxy, iou_threshold, **options)
    got = suppress(table, method="nms", iou_threshold=iou_threshold, **options)
    want = table.take(np.asarray(rows, np.int64))
    for name in ("offsets", "boxes_xywh", "scores", "labels"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_equals_torchvision_on_crowded_float_boxes(class_agnostic):
    rng = np.random.default_rng(0)
    counts = [0, 400, 1, 900, 0, 60]
    n = sum(counts)
    corners = rng.uniform(0, 300, (n, 2))
    xyxy = np.concatenate([corners, corners + rng.uniform(1, 150, (n, 2))], 1).astype("f4")
    table = detections_from_xyxy(counts, xyxy, rng.random(n), rng.integers(0, 4, n))
    options = {"class_agnostic": class_agnostic, "max_per_image": 10_000}
    got = suppress(table, method="nms", iou_threshold=0.5, **options)
    want = table.take(np.asarray(expected_rows(table, xyxy, 0.5, **options)))
    np.testing.assert_array_equal(got.boxes_xywh, want.boxes_xywh)
    np.testing.assert_array_equal(got.scores, want.scores)
    np.testing.assert_array_equal(got.offsets, want.offsets)
    assert 100 < len(got.scores) < n


def test_equals_torchvision_to_the_last_bit_of_the_iou():
    """Thresholds at the IoU itself, from corners whose float32 widths are not exact."""
    rng = np.random.default_rng(0)
    options = {"class_agnostic": False, "max_per_image": 9}
    both = {1: 0, 2: 0}
    for _ in range(400):
        low, high = rng.uniform(-900, -800, (2, 2)), rng.uniform(20, 100, (1, 2))
        xyxy = np.concatenate([low, high * rng.uniform(0.9, 1, (2, 2))], 1).astype("f4")
        table = detections_from_xyxy([2], xyxy, [0.9, 0.8], [0, 0])
        first, second = torch.from_numpy(xyxy).split(1)
        for nudge in (0.0, 6e-8):
            threshold = float(box_iou(first, second)) - nudge
            got = suppress(table, method="nms", iou_threshold=threshold, **options)
            want = expected_rows(table, xyxy, threshold, **options)
            assert len(got.scores) == len(want)
            both[len(want)] += 1
    assert min(both.values()) > 50


def test_iou_equal_to_the_threshold_survives_and_ties_go_to_the_first():
    # IoU of the two boxes is exactly 1/2.
    xyxy = [[0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 2, 1]]
    table = detections_from_xyxy([3], xyxy, [0.5, 0.5, 0.5], [0, 0, 0], iou=np.arange(3.0))
    kept = suppress(table, method="nms", iou_threshold=0.5, class_agnostic=False, max_per_image=9)
    assert kept.extra["iou"].tolist() == [0.0, 1.0]
    kept = suppress(table, method="nms", iou_threshold=0.49, class_agnostic=False, max_per_image=9)
    assert kept.extra["iou"].tolist() == [0.0]


def test_extra_columns_follow_their_boxes_and_the_input_stays_as_it_was():
    table = detections_from_xyxy(
        [1, 2],
        [[0, 0, 1, 1], [5, 5, 9, 9], [0, 0, 4, 4]],
        [0.1, 0.2, 0.8],
        [0, 0, 0],
        sigma=np.arange(12.0).reshape(3, 4),
    )
    before = table.scores.copy()
    table.boxes_xywh.flags.writeable = False
    kept = suppress(table, method="nms", iou_threshold=0.5, class_agnostic=False, max_per_image=9)
    assert kept.scores.tolist() == pytest.approx([0.1, 0.8, 0.2])
    np.testing.assert_array_equal(kept.extra["sigma"][:, 0], [0, 8, 4])
    np.testing.assert_array_equal(table.scores, before)


def test_no_candidates():
    for table in (Detections.join([]), detections_from_xyxy([0, 0], [], [], [])):
        kept = suppress(
            table, method="nms", iou_threshold=0.5, class_agnostic=False, max_per_image=9
        )
        assert len(kept.scores) == 0
        assert kept.num_images == table.num_images


def test_scores_that_are_not_finite_are_refused():
    table = detections_from_xyxy([1, 1], np.ones((2, 4)), [0.5, np.nan], [0, 0])
    with pytest.raises(DataError, match=r"1 of 2 candidates .* image number 1"):
        suppress(table, method="nms", iou_threshold=0.5, class_agnostic=False, max_per_image=9)


def test_boxes_that_are_not_finite_are_refused():
    table = crowded(0, [3, 4])
    boxes = table.boxes_xywh.copy()
    boxes[4, 2] = np.inf
    with pytest.raises(DataError, match=r"1 of 7 candidates have a box .* image number 1"):
        suppress(replace(table, boxes_xywh=boxes), method="nms")
