"""The sections of CenterNet and YOLOv4: what their keys refuse, and which tricks they take."""

from __future__ import annotations

import pytest

from detcli.errors import RecipeError
from detcli.recipe import diff_recipes, load_recipe

TAKEN = ("channels-last", "mosaic", "mixup", "copy-paste", "flip")
REFUSED = {
    ("centernet_r18", "giou"): r"model\.box_loss: unknown key; allowed here: name, backbone",
    ("centernet_r18", "l1"): r"model\.box_loss: unknown key; allowed here: name, backbone",
    ("centernet_r18", "varifocal"): "trick varifocal needs model.name to be retinanet or fcos or",
    ("centernet_r18", "norm-gn"): r"model\.head\.norm: unknown key;.* allowed here: channels",
    ("centernet_dla34", "dcn"): r"model\.backbone\.dcn: unknown key; allowed here: name, norm",
    ("yolov4", "ciou"): r"model\.box_loss: unknown key;.* allowed here: name, backbone, norm",
    ("yolov4", "se"): r"model\.backbone\.attention: unknown key; allowed here: name, width",
    ("yolov4", "iou-branch"): "trick iou-branch needs model.name to be retinanet",
}


@pytest.mark.parametrize("trick", ["se", "dcn", "gc"])
def test_blocks_of_the_resnet_act(trick: str) -> None:
    plain = load_recipe("centernet_r18").recipe
    changed = load_recipe("centernet_r18", tricks=[trick]).recipe
    keys = [key for key, _, _ in diff_recipes(plain, changed)]
    assert keys
    assert all(key.startswith("model.backbone.") for key in keys)


@pytest.mark.parametrize("name", ["centernet_dla34", "yolov4_shapes"])
@pytest.mark.parametrize("trick", TAKEN)
def test_tricks_of_the_training_are_taken(name: str, trick: str) -> None:
    loaded = load_recipe(name, tricks=[trick])
    assert f"trick {trick}" in loaded.origins.values()


@pytest.mark.parametrize(("name", "trick"), REFUSED)
def test_tricks_of_other_detectors_are_refused(name: str, trick: str) -> None:
    with pytest.raises(RecipeError, match=REFUSED[name, trick]):
        load_recipe(name, tricks=[trick])


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("centernet_r18", ["model.neck={name: dla_up}"], "dla_up and backbone dla34 go together"),
        ("centernet_r18", ["model.neck.channels=[64, 0]"], "expected numbers greater than 0"),
        ("centernet_r18", ["model.assigner.min_overlap=1"], "expected less than 1, got 1"),
        ("centernet_r18", ["postprocess.iou_threshold=0.5"], "iou_threshold: unknown key"),
        ("centernet_r18", ["postprocess.class_agnostic=true"], "class_agnostic: unknown key"),
        ("yolov4", ["model.anchors=[[1, 2], [3, 4]]"], "expected 3 lists, got 2"),
        ("yolov4", ["model.anchors=[[1, 2], [3, 4], [5]]"], "expected pairs of width and height"),
        ("yolov4", ["model.scale_xy=[1, 1, 0.9]"], "expected numbers from 1 on"),
        ("yolov4", ["model.loss={name: scaled}", "model.scale_xy=[1, 1, 1]"], "acts only with"),
        ("yolov4", ["model.loss={name: darknet, max_ratio: 3}"], "unknown key"),
        ("yolov4", ["model.backbone={width: 0.5, weights: x}"], "public weights are for width 1"),
        ("yolov4", ["model.loss.name=darknett"], "did you mean darknet"),
    ],
)
def test_what_cannot_act_is_refused(name: str, overrides: list[str], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe(name, overrides)


def test_published_figures() -> None:
    figures = {
        "centernet_r18": (0.259,),
        "centernet_r18_dcnv2": (0.295,),
        "centernet_r18_dcn_xingyizhou": (0.281,),
        "centernet_dla34": (0.374,),
        "yolov4": (0.435, 0.412),
    }
    for name, wanted in figures.items():
        assert tuple(entry.AP for entry in load_recipe(name).recipe.expected) == wanted
