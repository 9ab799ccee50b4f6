"""What is scaled, and where it comes from."""

import pytest

from detcli.engine.lr_scale.base import (
    COMMON,
    StepBatch,
    base_of,
    choice_warnings,
    choose_base,
    choose_step,
    common_base,
)
from detcli.engine.lr_scale.rules import scale
from detcli.recipe import list_recipes, load_recipe


@pytest.mark.parametrize("loaded", list_recipes(), ids=lambda loaded: loaded.recipe.name)
def test_every_recipe_is_its_own_base(loaded):
    base, optim = base_of(loaded.recipe), loaded.recipe.optim
    found = scale(base, StepBatch(1, optim.lr_batch), None)
    assert (found.lr, found.adjustments) == (optim.lr, ())


@pytest.mark.parametrize(
    ("overrides", "stats"),
    [
        ((), None),
        (("model.backbone.norm_eval=false",), "bn"),
        (("model.backbone.norm_eval=false", "model.backbone.norm=frozen_bn"), None),
        (("model.backbone.norm_eval=false", "model.backbone.norm=sync_bn"), "sync_bn"),
        (("model.backbone.norm_eval=false", "model.backbone.frozen_stages=4"), None),
    ],
)
def test_what_counts_as_batch_statistics(overrides, stats):
    assert base_of(load_recipe("atss_r50", overrides).recipe).batch_stats == stats


def test_what_a_recipe_is_tuned_to():
    changes = ["train.ema.decay=0.999", "train.ema.warmup_steps=70", "optim.clip_norm=5"]
    base = base_of(load_recipe("atss_r50", [*changes, "schedule.warmup=none"]).recipe)
    assert (base.ema_decay, base.ema_warmup_steps, base.clips) == (0.999, 70, True)
    assert (base.warmup_steps, base.epochs, base.milestones) == (0, 12, (8, 11))
    assert (base.lr, base.batch, base.tuned_batch) == (0.01, 16, 16)


def test_what_is_typed_goes_before_what_the_recipe_has():
    recipe = load_recipe("atss_r50").recipe
    assert choose_step(None, 4, None, None) == StepBatch(4, 2, 1)
    assert choose_step(recipe, 4, None, 3) == StepBatch(4, recipe.data.batch_per_rank, 3)
    base = choose_base(base_of(recipe), "sgd", "sqrt", None, 32)
    assert base == base_of(recipe)._replace(rule="sqrt", batch=32)


def test_another_optimiser_brings_its_rate_and_says_so():
    start = COMMON["sgd"]
    base = choose_base(start, "adamw", None, None, None)
    usual = COMMON["adamw"]
    assert (base.lr, base.batch, base.rule) == (usual.lr, usual.batch, usual.rule)
    assert len(list(choice_warnings(start, base, None))) == 2
    assert len(list(choice_warnings(start, base, 0.1))) == 1
    assert list(choice_warnings(start, start, None)) == []


def test_without_a_recipe_milestones_follow_the_epochs():
    assert common_base(None, None) == COMMON["sgd"]
    assert common_base("adamw", 24)._replace(epochs=12, milestones=(8, 11)) == COMMON["adamw"]
    assert common_base(None, 24).milestones == (16, 22)
