from __future__ import annotations

import json

from detcli.evaluation import METRIC_NAMES, evaluate_coco
from detcli.evaluation.report import (
    CLASS_HEADER,
    SUMMARY_HEADER,
    class_rows,
    summary_rows,
    to_json,
)
from tests.evaluation.oracle import detections_of, ground_truth_of

GROUND_TRUTH = ground_truth_of(
    [7], [0, 0], [[0, 0, 10, 10], [40, 40, 10, 10]], [0, 0],
    area=[100, 100], crowd=[False] * 2, difficult=[False] * 2, num_classes=2,
)  # fmt: skip
RESULT = evaluate_coco(GROUND_TRUTH, detections_of(1, [0], [[0, 0, 10, 10]], [0], [0.5]))


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
