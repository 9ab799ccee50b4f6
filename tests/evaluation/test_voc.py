"""Pascal VOC AP: published answers, and a plain transcription of the rule."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.errors import DataError, UsageError
from detcli.evaluation import evaluate_voc
from tests.evaluation.oracle import detections_of, ground_truth_of, large_data_set, small_data_sets
from tests.paths import FIXTURES

TOY = FIXTURES / "voc_toy"


def plain_iou(a, b, extra):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]) + extra
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] + extra) * (a[3] + extra) + (b[2] + extra) * (b[3] + extra) - width * height
    return width * height / union


def plain_voc_ap(ground_truth, detections, label, threshold, *, eleven_point, extra=0):
    """Everingham et al., "The Pascal Visual Object Classes Challenge", as one would write it."""
    images, hits = ground_truth.image_index, detections.image_index
    excused = ground_truth.crowd | ground_truth.difficult
    objects = {
        i: np.flatnonzero((images == i) & (ground_truth.labels == label)).tolist()
        for i in range(ground_truth.num_images)
    }
    count = sum(not excused[g] for group in objects.values() for g in group)
    rows = np.flatnonzero(detections.labels == label).tolist()
    rows.sort(key=lambda d: (-detections.scores[d], ground_truth.image_ids[hits[d]], d))
    taken, curve, true, false = set(), [], 0, 0
    for d in rows:
        best, chosen = 0.0, None
        for g in objects[hits[d]]:
            iou = plain_iou(detections.boxes_xywh[d], ground_truth.boxes_xywh[g], extra)
            if iou > best:
                best, chosen = iou, g
        if chosen is not None and best >= threshold:
            if excused[chosen]:
                continue
            true, false = (true, false + 1) if chosen in taken else (true + 1, false)
            taken.add(chosen)
        else:
            false += 1
        if count:
            curve.append((true / count, true / (true + false)))
    if count == 0:
        return None
    if eleven_point:
        levels = np.linspace(0, 1, 11)
        return sum(max((p for r, p in curve if r >= t), default=0) for t in levels) / 11
    area, last = 0.0, 0.0
    for recall, _ in curve:
        if recall > last:
            area += (recall - last) * max(p for r, p in curve if r >= recall)
            last = recall
    return area


@settings(max_examples=150, deadline=None)
@given(small_data_sets(), st.sampled_from([0.1, 0.5, 0.75]), st.booleans(), st.booleans())
def test_equals_a_plain_transcription(data_set, threshold, eleven_point, inclusive):
    ground_truth, detections = data_set
    result = evaluate_voc(
        ground_truth,
        detections,
        iou_threshold=threshold,
        eleven_point=eleven_point,
        inclusive_corners=inclusive,
    )
    expected = [
        plain_voc_ap(
            ground_truth,
            detections,
            label,
            threshold,
            eleven_point=eleven_point,
            extra=int(inclusive),
        )
        for label in range(len(ground_truth.class_names))
    ]
    assert [row["AP"] for row in result.per_class.values()] == pytest.approx(expected, abs=1e-12)
    defined = [ap for ap in expected if ap is not None]
    assert result.mAP == (pytest.approx(np.mean(defined)) if defined else None)


def test_equals_a_plain_transcription_on_a_large_data_set():
    ground_truth, detections = large_data_set(4, num_images=6)
    result = evaluate_voc(ground_truth, detections)
    for label, row in enumerate(result.per_class.values()):
        expected = plain_voc_ap(ground_truth, detections, label, 0.5, eleven_point=False)
        assert row["AP"] == pytest.approx(expected, abs=1e-12)
        assert row["detections"] == (detections.labels == label).sum()


def read_toy():
    columns = {"gts": [], "dets": []}
    files = sorted((TOY / "gts").glob("*.txt"))
    for folder, rows in columns.items():
        for image, file in enumerate(files):
            for line in (TOY / folder / file.name).read_text().splitlines():
                rows.append((image, *(float(word) for word in line.split()[1:])))
    objects, found = np.array(columns["gts"]), np.array(columns["dets"])
    count = len(objects)
    ground_truth = ground_truth_of(
        np.arange(len(files)),
        objects[:, 0].astype(int),
        objects[:, 1:],
        np.zeros(count),
        area=objects[:, 3] * objects[:, 4],
        crowd=np.zeros(count),
        difficult=np.zeros(count),
        num_classes=1,
    )
    return ground_truth, detections_of(
        len(files), found[:, 0].astype(int), found[:, 2:], np.zeros(len(found)), found[:, 1]
    )


@pytest.mark.parametrize("kind", ["AP_11point", "AP_every_point"])
def test_published_answers(kind):
    ground_truth, detections = read_toy()
    for threshold, expected in json.loads((TOY / "expected.json").read_text())[kind].items():
        result = evaluate_voc(
            ground_truth,
            detections,
            iou_threshold=float(threshold),
            eleven_point=kind == "AP_11point",
            inclusive_corners=True,
        )
        assert result.mAP == pytest.approx(expected, abs=1e-9), threshold
    assert result.per_class["class 0"] == {"AP": result.mAP, "objects": 15, "detections": 24}


@pytest.mark.parametrize(("threshold", "expected"), [(0.1, 0.2801), (0.3, 0.2254)])
def test_published_boxes_without_the_extra_pixel(threshold, expected):
    result = evaluate_voc(*read_toy(), iou_threshold=threshold)
    assert result.mAP == pytest.approx(expected, abs=5e-5)


def one_row(*boxes, **changes):
    columns = {"crowd": [False] * len(boxes), "difficult": [False] * len(boxes)}
    return ground_truth_of(
        [1],
        [0] * len(boxes),
        boxes,
        [0] * len(boxes),
        area=[100] * len(boxes),
        num_classes=1,
        **{**columns, **changes},
    )


def test_second_detection_is_false_although_another_object_is_free():
    """COCO's matching would give it the second object."""
    truth = one_row([0, 0, 10, 10], [2, 0, 10, 10])
    found = detections_of(1, [0, 0], [[0, 0, 10, 10], [0.5, 0, 10, 10]], [0, 0], [0.9, 0.8])
    assert evaluate_voc(truth, found).mAP == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_detections_of_an_excused_object_count_neither_way(kind):
    truth = one_row([0, 0, 10, 10], [50, 0, 10, 10], **{kind: [True, False]})
    boxes = [[0, 0, 10, 10], [0, 0, 10, 10], [50, 0, 10, 10]]
    found = detections_of(1, [0] * 3, boxes, [0] * 3, [0.9, 0.8, 0.7])
    result = evaluate_voc(truth, found)
    assert result.mAP == pytest.approx(1.0)
    assert result.per_class["class 0"]["objects"] == 1


def test_threshold_itself_counts():
    found = detections_of(1, [0], [[0, 0, 10, 5]], [0], [0.9])
    assert evaluate_voc(one_row([0, 0, 10, 10]), found, iou_threshold=0.5).mAP == 1.0


def test_nothing_found_and_nothing_to_find():
    nothing = detections_of(1, [], [], [], [])
    assert evaluate_voc(one_row([0, 0, 10, 10]), nothing).mAP == 0.0
    assert evaluate_voc(one_row([0, 0, 10, 10]), nothing, eleven_point=True).mAP == 0.0
    assert evaluate_voc(one_row([0, 0, 9, 9], difficult=[True]), nothing).mAP is None


def test_unusable_input_is_refused():
    nothing = detections_of(2, [], [], [], [])
    with pytest.raises(DataError, match="2 images"):
        evaluate_voc(one_row([0, 0, 10, 10]), nothing)
    with pytest.raises(UsageError, match=r"above 0 and up to 1, got 0\.0"):
        evaluate_voc(one_row([0, 0, 10, 10]), nothing, iou_threshold=0.0)
