from __future__ import annotations

import json

from detcli.evaluation import (
    ERROR_KINDS,
    METRIC_NAMES,
    SPECIAL_KINDS,
    calibration,
    confusion_matrix,
    error_report,
    evaluate_coco,
    evaluate_voc,
    match,
    report,
)
from detcli.evaluation.report import CLASS_HEADER, SUMMARY_HEADER, class_rows, summary_rows, to_json
from tests.evaluation.oracle import detections_of, ground_truth_of

GROUND_TRUTH = ground_truth_of(
    [7],
    [0, 0],
    [[0, 0, 10, 10], [40, 40, 10, 10]],
    [0, 0],
    area=[100, 100],
    crowd=[False] * 2,
    difficult=[False] * 2,
    num_classes=2,
)
DETECTIONS = detections_of(1, [0], [[0, 0, 10, 10]], [0], [0.5])
TABLE = match(GROUND_TRUTH, DETECTIONS)
RESULT = evaluate_coco(GROUND_TRUTH, DETECTIONS)


def test_summary_has_a_row_per_metric_and_a_dash_for_what_is_undefined():
    rows = {row[0]: row for row in summary_rows(RESULT)}
    assert tuple(rows) == METRIC_NAMES
    assert all(len(row) == len(SUMMARY_HEADER) for row in rows.values())
    assert rows["AR1"] == ("AR1", "0.50:0.95", "all", "1", "0.5000")
    assert rows["AP50"][-1] == "0.5050"  # 51 of 101 recall thresholds are reached
    assert rows["APl"][-1] == "-"


def test_class_rows_follow_the_labels():
    rows = class_rows(RESULT)
    assert all(len(row) == len(CLASS_HEADER) for row in rows)
    assert rows == [("class 0", "2", "0.5050", "0.5050", "0.5000"), ("class 1", "0", *"---")]


def test_json_has_the_fixed_keys_and_null_for_what_is_undefined():
    document = json.loads(json.dumps(to_json(RESULT), allow_nan=False))
    assert set(document) == {"metrics", "per_class", "images", "detections"}
    assert tuple(document["metrics"]) == METRIC_NAMES
    assert document["metrics"]["APl"] is None
    assert document["per_class"]["class 1"]["AP"] is None
    assert (document["images"], document["detections"]) == (1, 1)


def as_json(document):
    return json.loads(json.dumps(document, allow_nan=False))


def test_voc():
    result = evaluate_voc(GROUND_TRUTH, DETECTIONS)
    rows = report.voc_rows(result)
    assert all(len(row) == len(report.VOC_HEADER) for row in rows)
    assert rows == [
        ("class 0", "2", "1", "0.5000"),
        ("class 1", "0", "0", "-"),
        ("mean", "2", "1", "0.5000"),
    ]
    document = as_json(report.voc_to_json(result))
    assert document["metrics"] == {"mAP": 0.5}
    assert document["per_class"]["class 1"]["AP"] is None
    assert (document["interpolation"], document["iou_threshold"]) == ("every-point", 0.5)


def test_errors():
    result = error_report(GROUND_TRUTH, DETECTIONS, TABLE)
    rows = report.error_rows(result)
    assert [row[0] for row in rows] == [*ERROR_KINDS, *SPECIAL_KINDS]
    assert ("missed", "1", "0.4950") in rows
    assert rows[-1] == ("false negatives", "-", "0.4950")
    assert as_json(report.errors_to_json(result))["count"]["missed"] == 1


def test_calibration():
    result = calibration(GROUND_TRUTH, TABLE, bins=2)
    rows = report.calibration_rows(result)
    assert rows == [("0.00 to 0.50", "0", "-", "-"), ("0.50 to 1.00", "1", "0.5000", "1.0000")]
    assert all(len(row) == len(report.CALIBRATION_HEADER) for row in rows)
    document = as_json(report.calibration_to_json(result))
    assert document["error"] == 0.5
    assert document["precision"] == [None, 1.0]
    assert document["per_class"] == {"class 0": 0.5, "class 1": None}


def test_confusion():
    matrix = confusion_matrix(GROUND_TRUTH, DETECTIONS)
    assert report.confusion_header(matrix)[1:] == ("class 0", "class 1", "missed")
    assert report.confusion_rows(matrix) == [
        ("class 0", "1", "0", "1"),
        ("class 1", "0", "0", "0"),
        ("background", "0", "0", "0"),
    ]
    document = as_json(report.confusion_to_json(matrix))
    assert document["counts"] == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert (document["score_threshold"], document["iou_threshold"]) == (0.25, 0.5)
