import numpy as np
import pytest

from detcli.data.formats.read import read_records
from detcli.engine.train import overfit
from detcli.engine.train.schedule import Schedule
from detcli.errors import DataError
from detcli.recipe import list_recipes

SHAPES = {"variant": "plain", "num_train": 12, "num_val": 2, "size": (64, 64), "seed": 0}


@pytest.mark.parametrize("loaded", list_recipes(), ids=lambda loaded: loaded.recipe.name)
def test_every_recipe_has_an_overfit_check(loaded):
    recipe = overfit.overfit_recipe(loaded.recipe, 2)
    assert recipe.optim.weight_decay == 0
    assert all(value is None for value in recipe.data.augment.model_dump().values())
    steps_per_epoch = -(-2 // recipe.data.batch_per_rank)
    steps = recipe.schedule.num_epochs * steps_per_epoch
    assert overfit.STEPS <= steps * recipe.train.accumulate < 2 * overfit.STEPS
    schedule = Schedule(recipe.schedule, steps_per_epoch)
    assert {schedule.factor(step) for step in range(steps // 2, steps)} == {1.0}


def test_first_images_have_objects(tmp_path):
    records = read_records(
        format="shapes", root=str(tmp_path), split=None, name="train", shapes=SHAPES
    )
    chosen = overfit.first_with_objects(records, 3)
    assert len(chosen) == 3
    assert (np.diff(chosen.offsets) > 0).all()
    with pytest.raises(DataError, match="have objects"):
        overfit.first_with_objects(records, 13)


@pytest.mark.parametrize(("ap50", "word"), [(0.95, "passed"), (0.5, "failed"), (None, "failed")])
def test_verdict(ap50, word):
    assert word in overfit.verdict(ap50)
