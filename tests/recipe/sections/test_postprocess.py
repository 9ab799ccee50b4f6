"""The section `postprocess`: a class per method, and what happens when a layer changes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detcli.recipe import load_recipe, override_recipe, recipe_from_dict
from tests.recipe.texts import MINIMAL, lines_of, load

NMS = MINIMAL + "postprocess: {method: nms, iou_threshold: 0.6, metric: diou}\n"
LINEAR = MINIMAL + "postprocess: {method: soft, kind: linear, iou_threshold: 0.4}\n"
GAUSSIAN = MINIMAL + "postprocess: {method: soft, iou_threshold: 0.4}\n"


@pytest.mark.parametrize(
    ("text", "overrides", "wanted", "dropped"),
    [
        (MINIMAL, ["method=wbf"], {"iou_threshold": 0.55}, ""),
        (MINIMAL, ["max_per_image=7"], {"method": "nms", "max_per_image": 7}, ""),
        (NMS, ["method=wbf"], {"iou_threshold": 0.6}, "metric"),
        (NMS, ["method=wbf", "iou_threshold=0.7"], {"iou_threshold": 0.7}, "metric"),
        (NMS, ["method=matrix"], {"metric": "diou"}, "iou_threshold"),
        (NMS, ["method=none"], {"max_per_image": 100}, "iou_threshold, postprocess.metric"),
        (NMS, ["method=soft"], {"metric": "diou", "iou_threshold": 0.3}, "iou_threshold"),
        (NMS, ["method=soft", "kind=linear"], {"iou_threshold": 0.6, "metric": "diou"}, ""),
        (LINEAR, ["method=nms"], {"iou_threshold": 0.4}, "kind"),
    ],
)
def test_another_method_keeps_what_it_uses(
    text: str, overrides: list[str], wanted: dict[str, object], dropped: str, tmp_path: Path
) -> None:
    loaded = load(tmp_path, text, *(f"postprocess.{each}" for each in overrides))
    found = loaded.recipe.postprocess.model_dump()
    assert {key: found[key] for key in wanted} == wanted
    if not dropped:
        assert loaded.notes == ()
        return
    (note,) = loaded.notes
    assert note.endswith(f"which does not use postprocess.{dropped}: dropped")


@pytest.mark.parametrize(
    ("text", "overrides", "wanted"),
    [
        (NMS, ["method=sotf"], "method: expected nms, soft, .* or none, got 'sotf'; did you mean"),
        (NMS, ["sigma=1"], "sigma: unknown key"),
        (NMS, ["method=matrix", "iou_threshold=0.5"], "iou_threshold: unknown key"),
        (GAUSSIAN, [], "iou_threshold: acts only with kind linear, but kind is gaussian"),
        (LINEAR, ["kind=gaussian"], "iou_threshold: acts only with kind linear"),
        (NMS, ["method=wbf", "iou_threshold=1.5"], "iou_threshold: expected less than"),
        (NMS, ["method=adaptive"], "method: adaptive needs the column density .*density_branch"),
    ],
)
def test_what_does_not_act_is_one_line(
    text: str, overrides: list[str], wanted: str, tmp_path: Path
) -> None:
    (line,) = lines_of(tmp_path, text, *(f"postprocess.{each}" for each in overrides))
    assert re.search(rf"postprocess\.{wanted}", line), line


def test_recipes_of_older_checkpoints_lose_what_did_not_act() -> None:
    values = load_recipe("centernet_r18_shapes").recipe.model_dump()
    every = dict.fromkeys(("metric", "kind", "kernel", "sigma", "conf_type"))
    old = {"iou_threshold": 0.6, "class_agnostic": False, **every}
    values["postprocess"] |= old
    recipe = recipe_from_dict(values, "old")
    assert recipe.postprocess.model_dump() == {"method": "none", "max_per_image": 100}
    values["postprocess"] = {"method": "soft", **old}
    soft = recipe_from_dict(values, "old")
    assert soft.postprocess.acting_options().keys().isdisjoint({"iou_threshold"})
    assert override_recipe(soft, ["postprocess.sigma=0.2"], "old").postprocess.sigma == 0.2
