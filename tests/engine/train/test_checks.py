"""Class weights and small objects: what the engine makes of the training split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detcli.assign import build_assigner
from detcli.data.records import Notes, Records, pack_names
from detcli.engine.run.build import build_model
from detcli.engine.train.checks import announce_density, announce_small_objects, input_sides
from detcli.engine.train.class_weights import balanced_weights, decide_class_weights
from detcli.errors import RecipeError, UsageError
from detcli.models.dense.terms import build_criterion, class_term, object_factors
from detcli.recipe import Recipe, load_recipe, recipe_from_dict
from tests.models.specs import criterion_of, section
from tests.recipes import TINY, merged, write_tiny
from tests.sections import CLASS_LOSSES

NAMES = ("cell", "rod", "none")


def records(sides: list[list[float]], labels: list[list[int]], **flags: Any) -> Records:
    """Images of 100 x 200 pixels (height, width) with square boxes of these sides."""
    flat = np.array([side for image in sides for side in image])
    boxes = np.stack([np.zeros_like(flat), np.zeros_like(flat), flat, flat], axis=1)
    packed, name_offsets = pack_names([f"{number}.png" for number in range(len(sides))])
    ignored = np.zeros(len(flat), bool)
    ignored[flags.get("crowd", [])] = True
    return Records(
        folder="",
        packed_names=packed,
        name_offsets=name_offsets,
        image_ids=np.arange(len(sides)),
        sizes=np.array([[100, 200]] * len(sides)),
        apply_exif=np.zeros(len(sides), bool),
        offsets=np.concatenate([[0], np.cumsum([len(image) for image in sides])]),
        boxes_xywh=boxes,
        labels=np.array([label for image in labels for label in image], np.int64),
        area=flat**2,
        crowd=ignored,
        difficult=np.zeros(len(flat), bool),
        class_names=NAMES,
        category_ids=(1, 2, 3),
        notes=Notes(len(sides), len(flat)),
    )


THREE_TO_ONE = records([[20, 20], [40, 8, 8]], [[0, 0], [0, 1, 1]], crowd=[4])


def recipe_with(**changes: Any) -> Recipe:
    return recipe_from_dict(merged(TINY, changes), "test")


def weights_of(data: Records, said: list[str], *, must_act: bool = True, **class_loss: Any):
    recipe = recipe_with(model={"class_loss": {"name": "focal", **class_loss}})
    return decide_class_weights(recipe, data, said.append, must_act=must_act)


def test_inverse_frequency_by_hand() -> None:
    said: list[str] = []
    got = weights_of(THREE_TO_ONE, said, class_weights="inverse")
    # 3 and 1 objects (a crowd region is none): 1 / 3 and 1 / 1 over their mean (1 + 1) / 4
    assert got == pytest.approx((2 / 3, 2.0, 1.0))
    assert said == [
        "class weights, mean 1 over the objects: cell 0.667 (3 objects), rod 2 (1 objects)",
        "class weights: no training objects of none; weight 1",
    ]


def test_effective_number_by_hand() -> None:
    got = weights_of(THREE_TO_ONE, [], class_weights="effective", class_beta=0.5)
    # 3 objects count as (1 - 1/8) / (1 - 1/2) = 7/4, one as 1
    raw = np.array([4 / 7, 1.0])
    assert got == pytest.approx((*raw / ((3 * raw[0] + raw[1]) / 4), 1.0))


def test_given_weights_are_scaled_and_the_rest_is_1() -> None:
    got = weights_of(THREE_TO_ONE, [], class_weights={"rod": 5.0})
    assert got == pytest.approx((0.5, 2.5, 1.0))  # 1 and 5, over (3 x 1 + 5) / 4


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8), st.floats(0.01, 0.9999))
def test_balanced_weights(counts: list[int], beta: float) -> None:
    number = np.array(counts)
    inverse, effective = (
        balanced_weights(number, method, beta) for method in ("inverse", "effective")
    )
    for weights in (inverse, effective):
        assert (weights > 0).all()
        assert (weights[number == 0] == 1).all()
        if number.any():
            assert (weights * number).sum() / number.sum() == pytest.approx(1)
            order = np.argsort(number[number > 0])
            assert (np.diff(weights[number > 0][order]) <= 1e-9).all()  # rarer: not less
    if number.any():
        spread = [w[number > 0].max() / w[number > 0].min() for w in (inverse, effective)]
        assert spread[1] <= spread[0] * (1 + 1e-9)
        near_1 = balanced_weights(number, "effective", 1 - 1e-9)
        np.testing.assert_allclose(near_1, inverse, rtol=2e-3)


def test_no_weights_without_the_key() -> None:
    assert weights_of(THREE_TO_ONE, []) is None


@pytest.mark.parametrize(
    ("data", "weights", "reason"),
    [
        (THREE_TO_ONE, {"rood": 2.0}, r"no class 'rood'; they have cell, rod, none"),
        (records([[9, 9]], [[0, 1]]), "inverse", r"same weight \(2 of 3 classes have objects\)"),
        (records([[9, 9]], [[1, 1]]), "effective", r"same weight \(1 of 3 classes have objects\)"),
        (records([[]], [[]]), "inverse", r"same weight \(0 of 3 classes have objects\)"),
        (THREE_TO_ONE, {"none": 2.0}, "same weight"),
    ],
)
def test_weights_that_cannot_act_are_refused(data: Records, weights: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        weights_of(data, [], class_weights=weights)


def test_a_handful_of_images_may_lack_classes() -> None:
    one_class = records([[9, 9]], [[1, 1]])
    assert weights_of(one_class, [], class_weights="inverse", must_act=False) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("weights", ["inversed", {}, {"a": 0.0}, {"a": "b"}, [1.0], 2])
def test_the_recipe_says_what_it_expects(weights: Any) -> None:
    with pytest.raises(RecipeError, match=r"model\.class_loss\.class_weights: expected inverse, "):
        recipe_with(model={"class_loss": {"name": "bce", "class_weights": weights}})


def test_beta_acts_with_effective_only() -> None:
    with pytest.raises(RecipeError, match="acts only with class_weights effective"):
        recipe_with(
            model={"class_loss": {"name": "bce", "class_weights": "inverse", "class_beta": 0.9}}
        )


def test_weights_by_name_in_a_recipe_and_on_the_command_line(tmp_path: Any) -> None:
    path = write_tiny(
        tmp_path, model={"class_loss": {"name": "focal", "class_weights": {"a b": 2}}}
    )
    assert load_recipe(path).recipe.model.class_loss.class_weights == {"a b": 2.0}
    loaded = load_recipe("atss_r50", ["model.class_loss.class_weights={person: 0.5, car: 2}"])
    assert loaded.recipe.model.class_loss.class_weights == {"person": 0.5, "car": 2.0}
    assert loaded.origins["model.class_loss.class_weights.car"] == "command line"


def test_evaluation_builds_the_detector_without_them() -> None:
    recipe = recipe_with(model={"class_loss": {"name": "focal", "class_weights": "inverse"}})
    assert criterion_of(build_model(recipe, 3)).class_weights is None
    model = build_model(recipe, 3, class_weights=(0.5, 2.0, 1.0))
    assert criterion_of(model).class_weights == (0.5, 2.0, 1.0)


@pytest.mark.parametrize("name", CLASS_LOSSES)
@pytest.mark.parametrize("ohem", [None, {"name": "rank", "power": 1.0}])
def test_each_row_with_an_object_has_the_weight_of_its_class(name: str, ohem: Any) -> None:
    if ohem and name in ("varifocal", "quality_focal"):
        ohem = {"name": "hardest"}
    generator = torch.Generator().manual_seed(0)
    maps = tuple(torch.randn(2, 3, *size, generator=generator) for size in [(4, 5), (2, 3)])
    labels = torch.full((2, 26), 3)
    labels[0, [2, 9, 22]] = torch.tensor([0, 1, 2])
    labels[1, [3, 25]] = torch.tensor([2, -2])
    quality = torch.rand(2, 26, generator=generator)
    options = section("atss", {"class_loss": {"name": name, "ohem": ohem}})

    def term(weights: tuple[float, ...] | None) -> torch.Tensor:
        criterion = build_criterion(options, build_assigner(options.assigner))
        criterion = replace(criterion, class_weights=weights)
        return class_term(criterion, maps, labels, 3, quality, torch.ones(()))

    plain = term(None)
    assert torch.equal(term((1.0, 1.0, 1.0)), plain)
    # linear in each class's weight, and background keeps its own
    parts = [
        term(tuple(2.0 if index == c else 1.0 for c in range(3))) - plain for index in range(3)
    ]
    torch.testing.assert_close(
        term((0.5, 3.0, 1.5)), plain - 0.5 * parts[0] + 2 * parts[1] + 0.5 * parts[2]
    )
    factors = object_factors(labels, (0.5, 3.0, 1.5))
    wanted = torch.ones(2, 26)
    wanted[0, [2, 9, 22]] = torch.tensor([0.5, 3.0, 1.5])
    wanted[1, 3] = 1.5
    assert torch.equal(factors, wanted)


ENLARGE = {"enlarge_small": {"max_side_px": 16.0, "factor": 1.5}}
LOWER = {
    "assigner": {
        "name": "max_iou",
        "small": {"max_side_px": 16.0, "positive_iou": 0.3, "negative_iou": 0.2},
    }
}


def say_small(
    data: Records, settings: Any, *, must_act: bool = True, **data_keys: Any
) -> list[str]:
    said: list[str] = []
    recipe = recipe_with(model=settings, data=data_keys)
    announce_small_objects(recipe, data, said.append, must_act=must_act)
    return said


def test_sides_are_those_of_the_network_input() -> None:
    # 100 x 200 to 50 x 100 and to 64 x 128: the smaller counts
    recipe = recipe_with(data={"resize": {"short": [50, 64], "long": 1000}})
    np.testing.assert_allclose(input_sides(recipe, THREE_TO_ONE), [10, 10, 20, 4])


@pytest.mark.parametrize(
    ("settings", "key"), [(ENLARGE, "model.enlarge_small"), (LOWER, "model.assigner.small")]
)
def test_small_objects_are_counted(settings: Any, key: str) -> None:
    resize = {"short": [100], "long": 200}
    (line,) = say_small(THREE_TO_ONE, settings, resize=resize)
    assert line == (
        f"{key}: 1 of 4 training objects are smaller than 16 pixels at the smallest input size"
    )
    (line,) = say_small(THREE_TO_ONE, settings, resize={"short": [50], "long": 200})
    assert "3 of 4" in line


@pytest.mark.parametrize("settings", [ENLARGE, LOWER])
def test_nothing_small_is_refused_unless_an_augmentation_makes_it(settings: Any) -> None:
    large = records([[40, 60]], [[0, 1]])
    resize = {"short": [100], "long": 200}
    with pytest.raises(UsageError, match=r"cannot act: .* smaller than 16 .* smallest has 40"):
        say_small(large, settings, resize=resize)
    (line,) = say_small(large, settings, must_act=False, resize=resize)
    assert "0 of 2 training objects" in line
    zoom = {"augment": {"zoom_out": {"prob": 0.5}}}
    (line,) = say_small(large, settings, resize=resize, **zoom)
    assert line.endswith("; zoom_out can make more")
    with pytest.raises(UsageError, match="there are none"):
        say_small(records([[]], [[]]), settings, resize=resize)


@pytest.mark.parametrize(
    ("method", "reason", "model"),
    [
        ("iou_guided", r"the column iou .*: set model\.iou_branch", {"iou_branch": {}}),
        ("softer", r"the column sigma .*: set model\.box_loss", {"box_loss": {"name": "kl"}}),
        ("adaptive", r"the column density .*: set model\.density_branch", {"density_branch": {}}),
    ],
)
def test_suppression_that_needs_a_column_needs_its_branch(
    method: str, reason: str, model: Any
) -> None:
    with pytest.raises(RecipeError, match=rf"postprocess\.method: {method} needs {reason}"):
        recipe_with(postprocess={"method": method})
    assert recipe_with(postprocess={"method": method}, model=model).postprocess.method == method


def say_density(data: Records, *, must_act: bool = True, **augment: Any) -> list[str]:
    said: list[str] = []
    recipe = recipe_with(model={"density_branch": {}}, data={"augment": augment})
    announce_density(recipe, data, said.append, must_act=must_act)
    return said


def test_crowded_objects_are_counted() -> None:
    """Squares from the same corner: 18 in 20 overlaps by 0.81, 10 in 20 by a quarter; another class
    and a crowd region do not count."""
    data = records([[20, 18, 20], [10, 20], [7, 9]], [[0, 0, 1], [2, 2], [1, 1]], crowd=[6])
    (line,) = say_density(data)
    assert line == (
        "model.density_branch: 4 of 6 training objects overlap with another of their class, 2 of "
        "them by more than the 0.5 of postprocess.iou_threshold"
    )


def test_nothing_crowded_is_refused_unless_an_augmentation_makes_it() -> None:
    alone = records([[20, 18], [30]], [[0, 1], [0]])
    with pytest.raises(UsageError, match="cannot act: none of the 3 training objects overlaps"):
        say_density(alone)
    assert "0 of 3 training objects" in say_density(alone, must_act=False)[0]
    (line,) = say_density(alone, mixup={"prob": 0.5})
    assert line.endswith("; mixup can make more")
    with pytest.raises(UsageError, match="none of the 0"):
        say_density(records([[]], [[]]))


def test_small_thresholds_are_refused_where_they_cannot_act() -> None:
    bad = {
        "unknown key": {"name": "atss", "small": LOWER["assigner"]["small"]},
        "thresholds are those of all objects": {
            "name": "max_iou",
            "small": {"max_side_px": 16.0, "positive_iou": 0.5, "negative_iou": 0.4},
        },
        "expected at most that of all objects": {
            "name": "max_iou",
            "small": {"max_side_px": 16.0, "positive_iou": 0.6, "negative_iou": 0.4},
        },
        "expected at most positive_iou": {
            "name": "max_iou",
            "small": {"max_side_px": 16.0, "positive_iou": 0.2, "negative_iou": 0.3},
        },
    }
    for reason, assigner in bad.items():
        with pytest.raises(RecipeError, match=reason):
            recipe_with(model={"assigner": assigner})
