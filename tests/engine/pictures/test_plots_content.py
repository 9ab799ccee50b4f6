"""What is in a picture of an evaluation: as many marks as there are figures, where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from detcli.engine.pictures import plots
from detcli.evaluation import calibration, confusion_matrix, error_report, match, precision_recall
from tests.evaluation.oracle import large_data_set

CLASSES = 5


@pytest.fixture(scope="module")
def evaluated():
    truth, found = large_data_set(1, num_images=12, num_classes=CLASSES, boxes_per_image=40)
    return truth, found, match(truth, found)


def test_curves_of_every_threshold_and_of_every_class_with_objects(evaluated):
    truth, _, table = evaluated
    curves = precision_recall(truth, table)
    mean, classes = plots.plot_precision_recall(curves).axes
    assert len(mean.lines) == len(curves.iou_thresholds)
    for line, precision in zip(mean.lines, curves.mean_precision, strict=True):
        assert np.array_equal(line.get_ydata(), precision)
    assert len(classes.lines) == 2 * (CLASSES - 1)  # with its marker; one class has no object
    assert (mean.get_xlabel(), mean.get_ylabel()) == ("recall", "precision")
    assert (mean.get_xlim(), mean.get_ylim()[0]) == ((0, 1), 0)


def test_a_confusion_matrix_shows_each_count_in_its_cell(evaluated):
    truth, found, _ = evaluated
    matrix = confusion_matrix(truth, found)
    axis = plots.plot_confusion(matrix).axes[0]
    cells = {
        (int(y), int(x)): int(text.get_text())
        for text in axis.texts
        for x, y in [text.get_position()]
    }
    shown = {place: int(count) for place, count in np.ndenumerate(matrix.counts) if count}
    assert cells == shown
    assert len(axis.get_xticks()) == len(axis.get_yticks()) == CLASSES + 1


def test_bars_of_errors_are_as_long_as_what_they_cost(evaluated):
    report = error_report(*evaluated)
    (axis,) = plots.plot_errors({"a": report, "b": report}).axes
    gains = {**report.cost, **report.special}
    assert [label.get_text() for label in axis.get_yticklabels()] == list(gains)
    widths = [bar.get_width() for bar in axis.patches]
    assert widths == [gain or 0.0 for gain in gains.values()] * 2


def test_bins_of_a_reliability_diagram_hold_all_detections(evaluated):
    truth, _, table = evaluated
    result = calibration(truth, table)
    above, below = plots.plot_reliability(result).axes
    filled = result.count > 0
    assert [bar.get_height() for bar in above.patches] == result.precision[filled].tolist()
    assert [bar.get_height() for bar in below.patches] == result.count.tolist()


def test_methods_stand_at_their_time_and_ap_with_the_intervals_that_are_known():
    rows = [plots.TimedAP("nms", 0.12, 0.40, 0.38, 0.42), plots.TimedAP("soft", 59.0, 0.41)]
    (axis,) = plots.plot_ap_against_time(rows).axes
    assert [line.get_xydata().tolist() for line in axis.lines] == [[[0.12, 0.40]], [[59.0, 0.41]]]
    assert len(axis.collections) == 1
    assert axis.get_xscale() == "log"
    assert {text.get_text() for text in axis.texts} >= {"nms", "soft"}


def test_only_a_difference_clear_of_zero_is_filled():
    rows = [
        plots.Interval("better", 0.02, 0.01, 0.03),
        plots.Interval("unclear", 0.0, -0.01, 0.01),
        plots.Interval("no objects", None, None, None),
    ]
    (axis,) = plots.plot_differences(rows).axes
    _zero, _, better, _, unclear = axis.lines
    assert (better.get_markerfacecolor(), unclear.get_markerfacecolor()) == ("black", "white")
    assert [line.get_ydata()[0] for line in (better, unclear)] == [0, 1]
    assert len(axis.get_yticks()) == len(rows)
