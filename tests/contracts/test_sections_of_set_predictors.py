"""The sections of DETR and Deformable DETR: what their keys refuse."""

from __future__ import annotations

import pytest

from detcli.errors import RecipeError
from detcli.recipe import load_recipe

RECIPES = ("detr_r50", "deformable_detr_r50")
PROBLEMS = {
    "model.transformer.num_heads=7": r"num_heads: expected a divisor of 256 channels",
    "model.assigner={class_cost: 0, l1_cost: 0, giou_cost: 0}": r"class_cost: .* all 0",
    "model.box_loss.name=l1": r"box_loss\.name: expected one that compares boxes",
}
DETR_PROBLEMS = {
    "model.positions=learned & data.resize={short: [1600], long: 2000}": r"50 cells of 32 pixels",
    "model.positions=learned & model.backbone.last_map=dc5": r"50 cells of 16 pixels",
    "model.backbone={last_map: dc5, dilation: {stages: [4], rates: [1, 2]}}": r"dilates stage 4",
    "model.backbone={last_map: c4, dilation: {stages: [4], rates: [1, 2]}}": r"is no stage 4",
    "model.backbone={last_map: c4, dcn: {stages: [3, 4], version: 2, groups: 1}}": r"no stage 4",
    "optim.sampling_lr_mult=0.1": r"acts only with model\.name deformable_detr",
}
DEFORMABLE_PROBLEMS = {
    "model.two_stage=true": r"two_stage: .* set refine: true",
    "model.transformer.channels=40": r"channels: expected a multiple of 32",
    "model.transformer.num_levels=2": r"num_levels: expected greater than or equal to 3",
    "model.backbone.last_map=c4": r"last_map: unknown key",
}


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        *((recipe, *item) for recipe in RECIPES for item in PROBLEMS.items()),
        *(("detr_r50", *item) for item in DETR_PROBLEMS.items()),
        *(("deformable_detr_r50", *item) for item in DEFORMABLE_PROBLEMS.items()),
    ],
)
def test_what_does_not_go_together(recipe: str, overrides: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, overrides=overrides.split(" & "))
