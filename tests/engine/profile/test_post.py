"""Candidates of tiny networks, and the methods on them."""

import numpy as np
import pytest
import torch

from detcli.engine.profile import post as posting
from detcli.engine.profile.network import Case
from detcli.engine.profile.post import measure_posts
from detcli.engine.run import checkpoint
from detcli.engine.run.build import build_model
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.errors import DataError
from detcli.postprocess import METHODS
from detcli.recipe import load_recipe
from tests.postprocess.tables import suppress
from tests.recipes import write_tiny

ALONE = Ranks(0, 1, torch.device("cpu"))
QUIET = RunLog(quiet=True)
CLASSES = ("circle", "square", "triangle", "cross")


def tiny(folder, **changes):
    return load_recipe(write_tiny(folder, **changes)).recipe


def test_random_weights_leave_as_many_candidates_as_there_can_be(tmp_path):
    recipe = tiny(tmp_path, model={"topk_per_level": 20})
    (found,) = measure_posts([Case(recipe, CLASSES)], ALONE, QUIET, seconds=5)
    assert found.lifted
    # 64 pixels are 64, 16, 4, 1 and 1 cells of 4 classes: 20, 20, 16, 4 and 4 candidates.
    assert found.candidates == (64,) * 4
    assert len(found.decode_ms) == 4
    assert found.impossible == ("iou_guided", "softer", "adaptive")
    assert {row.spec.name for row in found.results} == METHODS.keys() - {*found.impossible}
    assert found.results[0].spec.label == "nms"
    assert all(row.ms_per_image > 0 for row in found.results)


def test_methods_run_as_the_recipe_and_as_they_usually_do(tmp_path, monkeypatch):
    seen = []
    starts = posting._candidates
    monkeypatch.setattr(
        posting, "_candidates", lambda *given: seen.append(starts(*given)) or seen[-1]
    )
    options = {"method": "soft", "sigma": 0.3, "max_per_image": 7, "class_agnostic": True}
    recipe = tiny(tmp_path, postprocess=options, model={"iou_branch": {}})
    (found,) = measure_posts([Case(recipe, CLASSES)], ALONE, QUIET, seconds=5)
    rows = {row.spec.name: row for row in found.results}
    assert found.results[0] is rows["soft"]
    assert "iou_guided" in rows
    common = {"max_per_image": 7, "class_agnostic": True}
    for name, own in (("soft", {"sigma": 0.3}), ("diou", {})):
        wanted = suppress(seen[0].table, method=name, **own, **common)
        assert np.array_equal(rows[name].detections.boxes_xywh, wanted.boxes_xywh)
        assert np.array_equal(rows[name].detections.scores, wanted.scores)


def test_a_checkpoint_keeps_the_recipes_threshold(tmp_path):
    recipe = tiny(tmp_path)
    torch.manual_seed(0)
    model = build_model(recipe, len(CLASSES))
    torch.nn.init.constant_(model.head.class_logits.bias, -0.5)  # some scores pass 0.05
    content = {
        "kind": "training",
        "recipe": recipe.model_dump(mode="json"),
        "class_names": list(CLASSES),
        "category_ids": [1, 2, 3, 4],
        "model": model.state_dict(),
        "ema": None,
    }
    checkpoint.save(tmp_path / "w.pt", content)
    case = Case(recipe, CLASSES, tmp_path / "w.pt")
    (found,) = measure_posts([case], ALONE, QUIET, seconds=5)
    assert not found.lifted
    assert all(found.candidates)


def test_few_images_where_time_is_short(tmp_path):
    recipe = tiny(tmp_path)
    (found,) = measure_posts([Case(recipe, CLASSES)], ALONE, QUIET, seconds=1e-9)
    assert len(found.candidates) == posting.FEWEST


def test_two_recipes_take_turns(tmp_path, monkeypatch):
    order = []
    run = posting._run
    monkeypatch.setattr(
        posting, "_run", lambda spec, *rest: order.append(spec.name) or run(spec, *rest)
    )
    recipes = [tiny(tmp_path), tiny(tmp_path, model={"iou_branch": {}})]
    cases = [Case(recipe, CLASSES) for recipe in recipes]
    first, second = measure_posts(cases, ALONE, QUIET, seconds=1e-9)
    twice = [name for name in METHODS if name not in first.impossible]
    wanted = [name for name in METHODS for _ in range(1 + (name in twice))]
    assert order == [name for name in wanted if name not in second.impossible]
    assert [row.spec.name for row in first.results] == twice


def test_data_that_is_not_there_is_an_error(tmp_path):
    recipe = load_recipe("atss_r18_bccd", [f"data.root={tmp_path}/none"]).recipe
    with pytest.raises(DataError, match="none"):
        measure_posts([Case(recipe, CLASSES)], ALONE, QUIET, seconds=1)
