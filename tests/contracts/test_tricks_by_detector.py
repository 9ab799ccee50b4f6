"""Which tricks of the overlays two-stage detectors and set predictors take, and which not."""

from __future__ import annotations

import pytest

from detcli.errors import RecipeError
from detcli.recipe import diff_recipes, load_recipe

TWO_STAGE = ("faster_rcnn_r50", "cascade_rcnn_r50", "ga_faster_rcnn_r50_caffe")
SET_PREDICTORS = ("detr_r50", "deformable_detr_r50")
TWO_STAGE_TAKEN = (
    *("smooth-l1", "iou", "giou", "diou", "ciou", "eiou", "focal-eiou", "small-box-weight"),
    *("label-smoothing", "ohem-rank", "class-weights", "enlarge-small", "roi-pool", "roi-context"),
    *("dcn", "dcn-v1", "se", "cbam", "gc", "dilation", "carafe", "rep-conv", "dropout"),
)
TWO_STAGE_REFUSED = {
    "varifocal": r"trick varifocal needs model\.name to be retinanet",
    "quality-focal": r"trick quality-focal needs model\.name to be retinanet",
    "ohem-hardest": r"trick ohem-hardest needs model\.name to be retinanet",
    "am-softmax": r"trick am-softmax needs model\.name to be ssd",
    "iou-branch": r"trick iou-branch needs model\.name to be retinanet",
    "auxiliary-head": r"trick auxiliary-head needs model\.name to be retinanet",
    "norm-gn": r"model\.head\.norm: unknown key; .*allowed here: num_fcs, channels, dropout",
    "implicit": r"model\.head\.implicit: unknown key",
    "depthwise": r"model\.head\.conv: unknown key",
}
SET_TAKEN = (
    *("iou", "diou", "ciou", "eiou", "focal-eiou", "small-box-weight", "label-smoothing"),
    *("dcn", "dcn-v1", "se", "cbam", "gc", "dilation", "recompute"),
)
SET_REFUSED = {
    "p2": r"model\.neck: unknown key",
    "norm-gn": r"model\.head: unknown key",
    "auxiliary-head": r"model\.auxiliary: unknown key",
    "iou-branch": r"model\.iou_branch: unknown key",
    "class-weights": r"model\.class_loss\.class_beta: unknown key",
    "ohem-rank": r"model\.class_loss\.ohem: unknown key",
    "l1": r"model\.box_loss\.name: expected one that compares boxes, as giou",
    "kl-loss": r"trick kl-loss needs model\.name to be",
    "small-iou": r"trick small-iou needs model\.assigner\.name to be max_iou",
}


@pytest.mark.parametrize(
    ("recipe", "trick"),
    [
        *((recipe, trick) for recipe in TWO_STAGE for trick in TWO_STAGE_TAKEN),
        *((recipe, trick) for recipe in SET_PREDICTORS for trick in SET_TAKEN),
    ],
)
def test_tricks_that_act(recipe: str, trick: str) -> None:
    plain, changed = load_recipe(recipe).recipe, load_recipe(recipe, tricks=[trick]).recipe
    keys = [key for key, _, _ in diff_recipes(plain, changed)]
    assert keys
    assert all(key.startswith("model.") for key in keys)


@pytest.mark.parametrize(
    ("recipe", "trick", "message"),
    [
        *((recipe, *item) for recipe in TWO_STAGE for item in TWO_STAGE_REFUSED.items()),
        *((recipe, *item) for recipe in SET_PREDICTORS for item in SET_REFUSED.items()),
    ],
)
def test_tricks_of_other_detectors_are_refused(recipe: str, trick: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, tricks=[trick])
