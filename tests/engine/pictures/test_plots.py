"""Every picture can be drawn, from full and from empty results, and names stay legible."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from detcli.engine.pictures import plots
from detcli.errors import UsageError
from detcli.evaluation import calibration, confusion_matrix, error_report, match, precision_recall
from tests.evaluation.oracle import detections_of, large_data_set
from tests.paths import ROOT

METHODS = [
    plots.TimedAP("nms", 0.12, 0.400, 0.38, 0.42),
    plots.TimedAP("soft gaussian", 0.35, 0.412),
    plots.TimedAP("ensemble-boxes wbf", 59.0, 0.425, 0.40, 0.45),
]
DIFFERENCES = [
    plots.Interval("better", 0.02, 0.01, 0.03),
    plots.Interval("unclear", 0.0, -0.01, 0.01),
    plots.Interval("a class without objects", None, None, None),
]


@pytest.fixture(scope="module", params=["full", "many classes", "no detections"])
def results(request):
    classes = 40 if request.param == "many classes" else 5
    ground_truth, detections = large_data_set(
        1, num_images=12, num_classes=classes, boxes_per_image=40
    )
    if request.param == "no detections":
        detections = detections_of(12, [], [], [], [])
    table = match(ground_truth, detections)
    report = error_report(ground_truth, detections, table)
    return {
        plots.plot_precision_recall: precision_recall(ground_truth, table),
        plots.plot_confusion: confusion_matrix(ground_truth, detections),
        plots.plot_errors: {"a": report, "b": report},
        plots.plot_reliability: calibration(ground_truth, table),
        plots.plot_ap_against_time: [] if request.param == "no detections" else METHODS,
        plots.plot_differences: [] if request.param == "no detections" else DIFFERENCES,
    }


@pytest.mark.filterwarnings("error")
def test_each_plot_is_drawn(results, tmp_path):
    for number, (draw, result) in enumerate(results.items()):
        png, _ = plots.save_figures(tmp_path, {str(number): draw(result)})
        assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("results", ["full"], indirect=True)
def test_each_plot_is_drawn_as_svg_too(results, tmp_path):
    for number, (draw, result) in enumerate(results.items()):
        _, svg = plots.save_figures(tmp_path, {str(number): draw(result)})
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_the_same_figures_give_the_same_file(tmp_path):
    for name in ("a", "b"):
        plots.save_figures(tmp_path, {name: plots.plot_differences(DIFFERENCES)})
    for suffix in (".png", ".svg"):
        first, second = (tmp_path / f"{name}{suffix}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_a_time_of_zero_is_refused():
    with pytest.raises(UsageError, match="nms: expected a time above 0 ms, got 0"):
        plots.plot_ap_against_time([plots.TimedAP("nms", 0.0, 0.4)])


def boxes_of_names(points, names):
    from matplotlib.figure import Figure

    from detcli.engine.pictures.plot_labels import place_labels

    figure = Figure(figsize=(7.2, 4.6), dpi=130, layout="constrained")
    axis = figure.subplots()
    axis.plot(*np.transpose(points), "o")
    place_labels(figure, axis, points, names)
    figure.draw_without_rendering()
    frame = axis.get_window_extent().extents
    return [text.get_window_extent().extents for text in axis.texts], frame


@pytest.mark.parametrize("spread", [0.001, 0.2, 1.0])
def test_names_do_not_cover_each_other(spread):
    """Eight methods of nearly equal time and AP, and two far away that set the scale."""
    rng = np.random.default_rng(0)
    points = np.append(0.5 + spread * rng.uniform(-0.5, 0.5, (8, 2)), [[-1, 0], [2, 1]], 0)
    boxes, frame = boxes_of_names(points, [f"method number {n}" for n in range(10)])
    for a, b in combinations(boxes, 2):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])
    for box in boxes:
        assert (box[:2] >= frame[:2] - 1).all()
        assert (box[2:] <= frame[2:] + 1).all()


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys, detcli.engine.pictures.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
