"""The arithmetic of a step: where it ends, what it accumulates, what its randomness hangs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detcli.engine.run.log import RunLog
from detcli.engine.train.build import prepare
from detcli.engine.train.step import ends_step, group_size, seed_step, take_step
from detcli.engine.train.trainer import Position, Trainer
from detcli.errors import DivergedError
from detcli.recipe import load_recipe
from tests.engine.train.interrupt import CPU
from tests.recipes import write_tiny


def trainer_of(folder: Path, **changes: Any) -> Trainer:
    recipe = load_recipe(write_tiny(folder, **changes)).recipe
    return prepare(recipe, folder, CPU, RunLog(quiet=True), explicit_lr=False)


def test_the_last_step_of_an_epoch_may_accumulate_less(tmp_path: Path) -> None:
    data = {"shapes": {"num_train": 6, "num_val": 2}}  # three batches of two
    trainer = trainer_of(tmp_path, data=data, train={"accumulate": 2})
    ends, sizes = [], []
    for batch in range(3):
        trainer.position = Position(batch=batch)
        ends.append(ends_step(trainer))
        sizes.append(group_size(trainer))
    assert ends == [False, True, True]
    assert sizes == [2, 2, 1]


def test_randomness_is_that_of_the_batch(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)  # four batches an epoch
    seeds = []
    for position in (Position(epoch=1), Position(batch=4, step=9), Position(batch=3)):
        trainer.position = position
        seed_step(trainer)
        seeds.append(torch.initial_seed())
    assert seeds[0] == seeds[1] != seeds[2]


def test_a_gradient_that_is_not_finite_takes_no_step(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, optim={"clip_norm": 1.0})
    parameters = list(trainer.network.detector.parameters())
    before = [value.detach().clone() for value in parameters]
    parameters[0].grad = torch.full_like(parameters[0], torch.inf)
    with pytest.raises(DivergedError, match="gradient norm = inf"):
        take_step(trainer)
    assert trainer.position.step == 0
    assert all(map(torch.equal, before, parameters))
