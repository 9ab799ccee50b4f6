"""Options are checked against the method they are for, in one line that says what to write."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest

from detcli.errors import DataError, UsageError
from detcli.postprocess import METHODS, check_method, method_options, missing_column, suppress
from detcli.postprocess.columns import NEEDED
from detcli.postprocess.options import RANGES
from tests.postprocess.tables import crowded

METRIC_METHODS = {"nms", "soft", "weighted", "matrix", "iou_guided", "softer", "adaptive"}


@pytest.mark.parametrize("method", list(METHODS))
def test_every_option_has_a_default_that_fits(method):
    defaults = method_options(method)
    assert {"iou_threshold", "class_agnostic", "max_per_image", "weights"} <= set(defaults)
    assert ("metric" in defaults) == (method in METRIC_METHODS)
    check_method(method, defaults)
    for name, value in defaults.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert name in RANGES
    assert inspect.getdoc(METHODS[method])


@pytest.mark.parametrize("method", list(METHODS))
def test_defaults_and_none_are_what_is_left_out(method):
    table = crowded(0, [20, 0, 30])
    want = suppress(table, method=method)
    defaults = method_options(method)
    for options in (defaults, dict.fromkeys(defaults)):
        got = suppress(table, method=method, **options)
        np.testing.assert_array_equal(got.boxes_xywh, want.boxes_xywh)
        np.testing.assert_array_equal(got.scores, want.scores)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("sotf", {}, r"'sotf' is unknown; it must be one of nms, .* \(did you mean 'soft'\?\)"),
        (
            "soft",
            {"sgima": 1},
            r"method 'soft' has no option 'sgima'; its options are "
            r"iou_threshold, class_agnostic, .*weights \(did you mean 'sigma'\?\)",
        ),
        ("nms", {"sigma": 1}, "method 'nms' has no option 'sigma'"),
        ("soft", {"sigma": 0}, "method 'soft', sigma: expected above 0, got 0"),
        ("soft", {"sigma": "x"}, "sigma: expected above 0, got 'x'"),
        ("soft", {"sigma": float("inf")}, "sigma: expected above 0, got inf"),
        ("soft", {"kind": "hard"}, "kind: expected gaussian or linear, got 'hard'"),
        ("soft", {"metric": "giou"}, "metric: expected iou or diou, got 'giou'"),
        ("nms", {"iou_threshold": True}, "iou_threshold: expected 0 to 1, got True"),
        ("nms", {"max_per_image": 2.5}, "max_per_image: expected at least 1, a whole number"),
        ("nms", {"max_per_image": 0}, "max_per_image: expected at least 1, a whole number, got 0"),
        ("nms", {"class_agnostic": 1}, "class_agnostic: expected true or false, got 1"),
        ("wbf", {"conf_type": "mean"}, "conf_type: expected avg or max or box_and_model_avg"),
        ("wbf", {"allows_overflow": "no"}, "allows_overflow: expected true or false, got 'no'"),
        ("wbf", {"skip_box_threshold": -0.1}, "skip_box_threshold: expected 0 to 1, got -0.1"),
        ("nms", {"weights": [1, 0]}, r"weights: expected numbers above 0, one per model, got \[1"),
        ("wbf", {"weights": 2.0}, "weights: expected numbers above 0, one per model, got 2.0"),
        ("wbf", {"weights": []}, "weights: expected numbers above 0"),
        ("nmw", {"weights": "12"}, "weights: expected numbers above 0, one per model, got '12'"),
    ],
)
def test_what_is_wrong_is_named(method, options, message):
    for check in (
        lambda: check_method(method, options),
        lambda: suppress(crowded(0, [3]), method=method, **options),
    ):
        with pytest.raises(UsageError, match=message):
            check()


@pytest.mark.parametrize("method", list(NEEDED))
def test_a_missing_column_is_named_with_what_writes_it(method):
    name = NEEDED[method].name
    table = crowded(0, [3, 4])
    assert missing_column(method, table.extra) is None
    without = {other: column for other, column in table.extra.items() if other != name}
    assert missing_column(method, without) == name
    message = f"method '{method}' needs the column '{name}' .* lack; a detector .* writes it"
    with pytest.raises(DataError, match=message):
        suppress(replace(table, extra=without), method=method)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NEEDED])
def test_other_methods_need_no_column(method):
    assert missing_column(method, ()) is None
    suppress(replace(crowded(0, [3]), extra={}), method=method)


@pytest.mark.parametrize("method", list(NEEDED))
def test_columns_that_cannot_be_used_are_refused(method):
    name = NEEDED[method].name
    table = crowded(0, [3, 4])
    column = table.extra[name].copy()
    column[5] = np.nan
    with pytest.raises(DataError, match=f"'{name}' .* to hold finite .* in image number 1"):
        suppress(replace(table, extra={name: column}), method=method)
    with pytest.raises(DataError, match=r"of shape \(7.*, got \(7, 2\)"):
        suppress(replace(table, extra={name: np.ones((7, 2))}), method=method)


def test_a_standard_deviation_of_zero_is_refused():
    table = crowded(0, [3])
    with pytest.raises(DataError, match="finite numbers above 0, got"):
        suppress(replace(table, extra={"sigma": np.zeros((3, 4))}), method="softer")


def test_boxes_that_are_not_finite_are_refused():
    table = crowded(0, [3, 4])
    boxes = table.boxes_xywh.copy()
    boxes[4, 2] = np.inf
    with pytest.raises(DataError, match=r"1 of 7 candidates have a box .* image number 1"):
        suppress(replace(table, boxes_xywh=boxes), method="nms")
