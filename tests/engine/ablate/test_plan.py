"""Which recipes an ablation trains."""

import pytest

from detcli.engine.ablate.plan import make_plan
from detcli.errors import RecipeError, UsageError
from detcli.recipe import diff_recipes
from tests.recipes import write_tiny


def plan(recipe, *tricks, overrides=(), mode="add-one", seeds=1, budget=1.0):
    return make_plan(str(recipe), overrides, tricks, mode=mode, seeds=seeds, budget=budget)


def names(made):
    return [(system.name, system.tricks, system.against) for system in made.systems]


def test_add_one_holds_each_trick_against_the_base(tmp_path):
    made = plan(write_tiny(tmp_path), "ema", "mosaic")
    assert names(made) == [
        ("base", (), None),
        ("ema", ("ema",), "base"),
        ("mosaic", ("mosaic",), "base"),
    ]
    base, ema, mosaic = (system.recipe for system in made.systems)
    assert base.train.ema is None
    assert ema.train.ema is not None
    assert {key.rsplit(".", 1)[0] for key, _, _ in diff_recipes(base, mosaic)} == {
        "data.augment.mosaic"
    }


def test_leave_one_out_holds_the_rest_against_all(tmp_path):
    made = plan(write_tiny(tmp_path), "ema", "mosaic", mode="leave-one-out")
    assert names(made) == [
        ("all", ("ema", "mosaic"), None),
        ("all-but-ema", ("mosaic",), "all"),
        ("all-but-mosaic", ("ema",), "all"),
    ]
    assert [system.removes for system in made.systems] == [False, True, True]


def test_all_does_both_and_holds_all_tricks_against_none(tmp_path):
    made = plan(write_tiny(tmp_path), "ema", "mosaic", mode="all")
    assert [(system.name, system.against) for system in made.systems] == [
        ("base", None),
        ("ema", "base"),
        ("mosaic", "base"),
        ("all", "base"),
        ("all-but-ema", "all"),
        ("all-but-mosaic", "all"),
    ]


def test_seeds_count_from_the_recipes(tmp_path):
    made = plan(write_tiny(tmp_path, train={"seed": 5}), "ema", seeds=3)
    assert made.seeds == (5, 6, 7)


def test_no_epoch_is_chosen_on_the_images_of_the_comparison(tmp_path):
    made = plan(write_tiny(tmp_path), "ema", "plateau")
    evaluated = {system.name: system.recipe.train.eval_every for system in made.systems}
    assert evaluated == {"base": 0, "ema": 0, "plateau": 1}  # plateau must look on the way


def test_budget_shortens_epochs_warm_up_and_milestones(tmp_path):
    recipe = write_tiny(
        tmp_path, schedule={"epochs": 40, "warmup_steps": 100, "milestones": [20, 32]}
    )
    made = plan(recipe, "ema", "cosine", budget=0.25)
    base, ema, cosine = (system.recipe for system in made.systems)
    for short in (base.schedule, cosine.schedule):
        assert (short.num_epochs, short.warmup_steps) == (10, 25)
    assert base.schedule.milestones == (5, 8)
    assert cosine.schedule.milestones is None
    assert ema.train.ema.warmup_steps == 500


def test_a_longer_schedule_stays_longer_within_a_budget(tmp_path):
    made = plan(write_tiny(tmp_path, schedule={"epochs": "1x"}), "3x", budget=0.25)
    base, long = (system.recipe.schedule for system in made.systems)
    assert (base.num_epochs, long.num_epochs) == (3, 9)
    assert (base.milestones, long.milestones) == ((2,), (7, 8))


def test_every_fault_of_every_trick_is_said_at_once(tmp_path):
    with pytest.raises(RecipeError) as error:
        plan(write_tiny(tmp_path), "emma", "mosaik", "ema")
    first, second = str(error.value).splitlines()
    assert first.startswith("emma: no trick 'emma'; did you mean ema?")
    assert second.startswith("mosaik: no trick 'mosaik'; did you mean mosaic?")


def test_tricks_that_exclude_each_other_cannot_be_left_out_one_at_a_time(tmp_path):
    pair = "varifocal", "quality-focal"
    plan(write_tiny(tmp_path), *pair)
    with pytest.raises(RecipeError, match="tricks varifocal and quality-focal exclude each other"):
        plan(write_tiny(tmp_path), *pair, mode="leave-one-out")


@pytest.mark.parametrize(
    ("tricks", "overrides", "message"),
    [
        ((), (), "--tricks: expected names"),
        (("ema", "ema"), (), "--tricks: ema is named more than once"),
        (("giou",), (), "giou changes nothing in tiny"),
        (("ema",), ("train.ema=null",), "ema changes nothing in tiny.* command line"),
    ],
)
def test_what_could_not_be_told_apart_is_refused(tmp_path, tricks, overrides, message):
    with pytest.raises(UsageError, match=message):
        plan(write_tiny(tmp_path), *tricks, overrides=overrides)


def test_a_trick_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "slow.yaml"
    path.write_text("about: Slower.\nsource: a test\noptim: {lr: x0.5}\n")
    made = plan(write_tiny(tmp_path), str(path), "ema", mode="all")
    assert [system.name for system in made.systems][:2] == ["base", "slow"]
    assert made.systems[1].recipe.optim.lr == made.baseline.recipe.optim.lr / 2
    assert made.systems[-2].name == "all-but-slow"
