from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.errors import DataError, UsageError
from detcli.evaluation import confusion_matrix
from tests.evaluation.oracle import detections_of, ground_truth_of, large_data_set, small_data_sets


def plain_iou(a, b, crowd):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - shared)


def plain_confusion(truth, found, score_threshold, iou_threshold):
    """All pairs of an image in one sorted list, taken greedily."""
    num_classes = len(truth.class_names)
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    excused = truth.crowd | truth.difficult
    for image in range(truth.num_images):
        objects = np.flatnonzero(truth.image_index == image)
        rows = np.flatnonzero(
            (found.image_index == image) & (found.scores >= score_threshold)
        ).tolist()
        rows.sort(key=lambda d: -found.scores[d])
        iou = {
            (d, g): plain_iou(found.boxes_xywh[d], truth.boxes_xywh[g], truth.crowd[g])
            for d in rows
            for g in objects
        }
        pairs = [(d, g) for (d, g), v in iou.items() if v >= iou_threshold and not excused[g]]
        pairs.sort(key=lambda p: (-iou[p], found.labels[p[0]] != truth.labels[p[1]]))
        taken, paired = set(), set()
        for d, g in pairs:
            if d not in paired and g not in taken:
                paired.add(d)
                taken.add(g)
                counts[truth.labels[g], found.labels[d]] += 1
        for d in set(rows) - paired:
            label = found.labels[d]
            near = [g for g in objects if excused[g] and truth.labels[g] == label]
            counts[-1, label] += all(iou[d, g] < iou_threshold for g in near)
        for g in objects:
            counts[truth.labels[g], -1] += not excused[g] and g not in taken
    return counts


@settings(max_examples=100, deadline=None)
@given(small_data_sets(), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.1, 0.5, 1.0]))
def test_equals_a_plain_transcription(data_set, score_threshold, iou_threshold):
    got = confusion_matrix(*data_set, score_threshold=score_threshold, iou_threshold=iou_threshold)
    expected = plain_confusion(*data_set, score_threshold, iou_threshold)
    np.testing.assert_array_equal(got.counts, expected)


def test_each_object_and_each_detection_counts_once():
    ground_truth, detections = large_data_set(3, num_images=10, boxes_per_image=60)
    result = confusion_matrix(ground_truth, detections, score_threshold=0.7)
    np.testing.assert_array_equal(
        result.counts, plain_confusion(ground_truth, detections, 0.7, 0.5)
    )
    counted = ~(ground_truth.crowd | ground_truth.difficult)
    classes = len(ground_truth.class_names)
    np.testing.assert_array_equal(
        result.counts[:-1].sum(1), np.bincount(ground_truth.labels[counted], minlength=classes)
    )
    shown = np.bincount(detections.labels[detections.scores >= 0.7], minlength=classes)
    assert (result.counts[:, :-1].sum(0) <= shown).all()  # fewer by what crowds absorb
    assert result.counts[-1, -1] == 0
    assert (result.score_threshold, result.iou_threshold) == (0.7, 0.5)


def test_worked_example():
    """A cat taken for a dog, a dog found twice, a cat missed, a dog out of nowhere."""
    boxes = [[0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10]]
    truth = ground_truth_of(
        [1],
        [0] * 3,
        boxes,
        [0, 1, 0],
        area=[100] * 3,
        crowd=[False] * 3,
        difficult=[False] * 3,
        num_classes=2,
    )
    found = detections_of(
        1,
        [0] * 4,
        [boxes[0], boxes[1], [20, 0, 10, 9], [80, 0, 9, 9]],
        [1] * 4,
        [0.9, 0.5, 0.8, 0.7],
    )
    result = confusion_matrix(truth, found)
    assert result.counts.tolist() == [[0, 1, 1], [0, 1, 0], [0, 2, 0]]
    assert confusion_matrix(truth, found, score_threshold=0.95).counts.tolist() == [
        [0, 0, 2],
        [0, 0, 1],
        [0, 0, 0],
    ]


def test_unusable_input_is_refused():
    ground_truth, detections = large_data_set(3, num_images=3)
    with pytest.raises(UsageError, match=r"above 0 and up to 1, got 1\.5"):
        confusion_matrix(ground_truth, detections, iou_threshold=1.5)
    with pytest.raises(DataError, match="2 images"):
        confusion_matrix(ground_truth, detections_of(2, [], [], [], []))
