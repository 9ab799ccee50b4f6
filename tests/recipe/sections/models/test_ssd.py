"""The section of SSD: what its keys refuse, and which tricks it takes."""

from __future__ import annotations

import pytest

from detcli.errors import RecipeError
from detcli.recipe import diff_recipes, load_recipe
from tests.sections import SOFTMAX_LOSSES

TAKEN = (
    *("l1", "iou", "giou", "diou", "ciou", "eiou", "focal-eiou", "small-box-weight"),
    *("label-smoothing", "ohem-rank", "class-weights", "enlarge-small", "small-iou", "am-softmax"),
)
REFUSED = {
    "dcn": r"model\.backbone\.dcn: unknown key; allowed here: name, frozen_stages, weights",
    "se": r"model\.backbone\.attention: unknown key; allowed here: name, frozen_stages, weights",
    "p2": r"model\.neck\.min_level: unknown key; allowed here: out_channels, strides",
    "varifocal": r"trick varifocal needs model\.name to be retinanet or fcos or atss",
    "quality-focal": r"trick quality-focal needs model\.name to be retinanet or fcos or atss",
    "ohem-hardest": r"trick ohem-hardest needs model\.name to be retinanet or fcos or atss",
}


@pytest.mark.parametrize("trick", TAKEN)
def test_tricks_that_act(trick: str) -> None:
    plain, changed = load_recipe("ssd300").recipe, load_recipe("ssd300", tricks=[trick]).recipe
    keys = [key for key, _, _ in diff_recipes(plain, changed)]
    assert keys
    assert all(key.startswith("model.") for key in keys)


@pytest.mark.parametrize("trick", REFUSED)
def test_tricks_of_other_detectors_are_refused(trick: str) -> None:
    with pytest.raises(RecipeError, match=REFUSED[trick]):
        load_recipe("ssd300", tricks=[trick])


@pytest.mark.parametrize("name", ["atss_r50", "retinanet_r50", "fcos_r50_caffe"])
def test_am_softmax_is_for_a_softmax(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, tricks=["am-softmax"])
    first, second = str(caught.value).splitlines()
    assert first.endswith(
        "model.class_loss.name: expected focal, bce, varifocal or quality_focal, got 'am_softmax'"
    )
    assert second.startswith("trick am-softmax needs model.name to be ssd, but it is ")


def test_the_schema_has_every_softmax_loss() -> None:
    for name in SOFTMAX_LOSSES:
        loss = load_recipe("ssd300", [f"model.class_loss.name={name}"]).recipe.model.class_loss
        assert loss.name == name
        assert (loss.ohem.name, loss.ohem.negatives_per_object) == ("hardest", 3.0)
    assert (
        load_recipe("ssd300", ["model.class_loss.ohem=null"]).recipe.model.class_loss.ohem is None
    )


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.neck.strides=[2, 2]", r"model\.neck\.strides: expected 4 values, as out_channels"),
        ("model.neck.paddings=[1]", r"model\.neck\.paddings: expected 4 values"),
        ("model.neck.paddings=[1, 1, 0, -1]", r"model\.neck\.paddings: expected numbers from 0 on"),
        ("model.neck.out_channels=[512, 256, 256, 255]", r"expected even numbers from 2 on"),
        ("model.anchors.sizes=[10, 20]", r"model\.anchors\.sizes: expected 7 values for 6 levels"),
        ("model.anchors.strides=[8]", r"model\.anchors\.strides: expected 6 values for 6 levels"),
        ("model.anchors.ratios=[[2], [1]]", r"ratios: expected numbers greater than 1"),
        ("model.anchors.sizes=[45, 21, 99, 153, 207, 261, 315]", r"sizes: expected rising numbers"),
        ("model.delta_stds=[0, 1, 1, 1]", r"delta_stds: expected numbers greater than 0"),
        ("model.class_loss.margin=0.2", r"model\.class_loss\.margin: unknown key"),
        ("model.class_loss.name=focal", r"expected softmax or am_softmax, got 'focal'"),
        ("data.std=[58, 57, 57]", r"data\.std: these VGG-16 weights"),
        ("data.resize.long=500", r"data\.resize\.long: .* keep_aspect false"),
    ],
)
def test_what_cannot_be_is_refused(override: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe("ssd300", [override])


def test_what_only_hardest_has() -> None:
    with pytest.raises(RecipeError, match="acts only with name hardest, but name is rank"):
        load_recipe("ssd300", ["model.class_loss.ohem={name: rank, background_images: false}"])
