"""Methods as people type them: checked against the recipe's sections, in one line that says what
to write."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest

from detcli.engine.run.methods import MethodSpec, own_options, parse_method, possible_methods
from detcli.errors import DataError, UsageError
from detcli.postprocess import METHODS, fuses
from detcli.recipe.sections.postprocess import SECTIONS
from tests.postprocess.tables import crowded, suppress

NEEDED = {name: kind.column for name, kind in SECTIONS.items() if kind.column is not None}


def test_every_method_has_a_section_with_exactly_its_options():
    assert METHODS.keys() == SECTIONS.keys()
    for name, function in METHODS.items():
        keywords = inspect.signature(function).parameters.keys() - {"candidates", "weights"}
        assert keywords == SECTIONS[name].model_fields.keys() - {"method"}
        assert inspect.getdoc(function)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_name_alone_is_the_method_with_its_defaults(method):
    table = crowded(0, [20, 0, 30])
    got, want = MethodSpec(method).apply(table), suppress(table, method=method)
    np.testing.assert_array_equal(got.boxes_xywh, want.boxes_xywh)
    np.testing.assert_array_equal(got.scores, want.scores)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sotf", r"'sotf': expected one of nms, .*; did you mean soft\?"),
        ("soft sgima=1", r"'soft sgima=1': sgima: unknown key; did you mean sigma\?"),
        ("nms sigma=1", "sigma: unknown key; allowed here: max_per_image, .*, metric"),
        ("soft sigma=0", "sigma: expected greater than 0, got 0"),
        ("soft sigma=x", "sigma: expected a valid number, got 'x'"),
        ("soft sigma=.inf", "sigma: expected a finite number, got inf"),
        ("soft kind=hard", "kind: expected gaussian or linear, got 'hard'"),
        ("soft metric=giou", "metric: expected iou or diou, got 'giou'"),
        ("nms iou_threshold=true", "iou_threshold: expected a valid number, got true"),
        ("nms iou_threshold=1.1", "iou_threshold: expected less than or equal to 1, got 1.1"),
        ("nms max_per_image=2.5", "max_per_image: expected a valid integer"),
        ("nms max_per_image=0", "max_per_image: expected greater than 0, got 0"),
        ("nms class_agnostic=1", "class_agnostic: expected a valid true or false"),
        ("wbf conf_type=mean", "conf_type: expected avg, max, box_and_model_avg or absent"),
        ("wbf skip_box_threshold=-0.1", "skip_box_threshold: expected greater than or equal to 0"),
        ("wbf weights=1", "weights: unknown key"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_method(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("soft iou_threshold=0.9", "kind=linear"),
        ("soft iou_threshold=0.3", "kind=linear"),  # the default does as little
        ("soft kind=linear sigma=0.1", "kind=gaussian"),
        ("softer iou_threshold=0.5", "kind=linear or hard"),
        ("softer kind=hard sigma=0.5", "kind=gaussian"),
        ("softer kind=hard score_threshold=0.1", "kind=gaussian or linear"),
        ("adaptive sigma=0.1", "kind=gaussian"),
        ("adaptive score_threshold=0.1", "kind=gaussian or linear"),
        ("matrix kernel=linear sigma=0.1", "kernel=gaussian"),
        ("wbf conf_type=max allows_overflow=true", "conf_type=avg"),
    ],
)
def test_an_option_that_does_not_act_is_refused(text, key):
    with pytest.raises(UsageError, match=f"acts only with {key}; remove it"):
        parse_method(text)


@pytest.mark.parametrize("text", ["matrix iou_threshold=0.5", "none iou_threshold=0.5"])
def test_an_option_that_a_method_lacks_is_unknown(text):
    with pytest.raises(UsageError, match="iou_threshold: unknown key"):
        parse_method(text)


def changed(method: str, key: str, options: dict) -> bool:
    """Whether the option makes a difference to some crowded images."""
    table = crowded(3, [60, 60], num_places=3)
    other = {
        "max_per_image": 3,
        "class_agnostic": True,
        "iou_threshold": 0.9,
        "metric": "diou",
        "sigma": 0.05,
        "score_threshold": 0.3,
        "sigma_t": 1.0,
        "kind": "linear",
        "kernel": "linear",
        "skip_box_threshold": 0.5,
        "conf_type": "max",
        "allows_overflow": True,
    }[key]
    one = suppress(table, method=method, **options)
    two = suppress(table, method=method, **{**options, key: other})
    same = np.array_equal(one.boxes_xywh, two.boxes_xywh)
    return not (same and np.array_equal(one.scores, two.scores))


@pytest.mark.parametrize("method", list(METHODS))
def test_what_acts_changes_boxes_and_what_does_not_act_does_not(method):
    kind = SECTIONS[method]
    choices = kind.acts_with and inspect.get_annotations(kind)[kind.chooser].__args__
    for options in [{kind.chooser: choice} for choice in choices or ()] or [{}]:
        for key in kind.model_fields.keys() - {"method", kind.chooser}:
            assert changed(method, key, options) == (key in kind.acting(options)), (key, options)


def test_defaults_are_added_where_they_act():
    assert MethodSpec("nms").with_defaults(iou_threshold=0.7).label == "nms iou_threshold=0.7"
    assert MethodSpec("soft").with_defaults(iou_threshold=0.7).label == "soft"
    linear = MethodSpec("soft").with_defaults(kind="linear", iou_threshold=0.7)
    assert linear.label == "soft kind=linear iou_threshold=0.7"
    typed = MethodSpec("nms", {"iou_threshold": 0.4}).with_defaults(iou_threshold=0.7, sigma=1)
    assert typed.label == "nms iou_threshold=0.4"


def test_what_a_comparison_shares_is_used_and_recorded():
    shared = {"max_per_image": 7, "class_agnostic": True}
    nms = MethodSpec("nms", {"max_per_image": 3}).among(num_models=2, **shared)
    assert nms.params == {
        "max_per_image": 3,
        "class_agnostic": True,
        "iou_threshold": 0.5,
        "metric": "iou",
        "weights": None,
    }
    assert nms.label == "nms max_per_image=3"
    assert MethodSpec("none").among(**shared).params == {"max_per_image": 7, "weights": None}
    assert MethodSpec("wbf").among(num_models=2).params["weights"] == [1.0, 1.0]
    assert {name for name in METHODS if fuses(name)} == {"wbf", "nmw"}


def test_older_descriptions_name_options_that_do_not_act():
    older = {"method": "soft", "iou_threshold": 0.6, "sigma": 0.3, "max_per_image": 9}
    assert own_options(older) == {"sigma": 0.3}
    assert own_options({**older, "sigma": None, "kind": "linear"}) == {
        "kind": "linear",
        "iou_threshold": 0.6,
    }


@pytest.mark.parametrize("method", list(NEEDED))
def test_a_missing_column_is_named_with_what_writes_it(method):
    name = NEEDED[method].name
    table = crowded(0, [3, 4])
    assert method in possible_methods(table.extra)
    without = {other: column for other, column in table.extra.items() if other != name}
    assert method not in possible_methods(without)
    message = f"method '{method}' needs the column '{name}' .* lack; a detector .* writes it"
    with pytest.raises(DataError, match=message):
        MethodSpec(method).apply(replace(table, extra=without))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NEEDED])
def test_other_methods_need_no_column(method):
    assert method in possible_methods(())
    MethodSpec(method).apply(replace(crowded(0, [3]), extra={}))


@pytest.mark.parametrize("method", list(NEEDED))
def test_columns_that_cannot_be_used_are_refused(method):
    name = NEEDED[method].name
    table = crowded(0, [3, 4])
    column = table.extra[name].copy()
    column[5] = np.nan
    with pytest.raises(DataError, match=f"'{name}' .* to hold finite .* in image number 1"):
        MethodSpec(method).apply(replace(table, extra={name: column}))
    with pytest.raises(DataError, match=r"of shape \(7.*, got \(7, 2\)"):
        MethodSpec(method).apply(replace(table, extra={name: np.ones((7, 2))}))


def test_a_standard_deviation_of_zero_is_refused():
    table = crowded(0, [3])
    with pytest.raises(DataError, match="finite numbers above 0, got"):
        MethodSpec("softer").apply(replace(table, extra={"sigma": np.zeros((3, 4))}))
