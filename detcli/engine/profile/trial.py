"""A trainer to take measurements on: the recipe's own, but it learns nothing and saves nothing."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from detcli.data.records import Records
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.train.build import averages_of, network_of, prepare
from detcli.engine.train.meter import Meter
from detcli.engine.train.trainer import Position, Trainer
from detcli.recipe import Recipe, override_recipe
from detcli.types import Batch

MOST_CACHED = 256  # images that are decoded into memory where the recipe keeps all of them there


def build_trial(recipe: Recipe, scratch: Path, ranks: Ranks) -> Trainer:
    """The trainer of a recipe with random weights, in training mode; its log goes to `scratch`.

    The learning rate is 0, so that any number of steps leaves the weights as they are: the same
    work, without a loss that could become infinite. Raises what `prepare` raises.
    """
    plain = override_recipe(recipe, ["train.save_every=null"], recipe.name)
    cached = recipe.data.cache == "ram"
    trainer = prepare(
        plain,
        scratch,
        ranks,
        RunLog(scratch, quiet=True),
        explicit_lr=False,
        resuming=True,  # as if a checkpoint followed: public weights are not loaded
        subset=(lambda records: evenly(records, MOST_CACHED))
        if cached
        else lambda records: records,
    )
    trainer.network.detector.train()
    return replace(trainer, learning_rate=replace(trainer.learning_rate, lr=0.0))


def evenly(records: Records, most: int) -> Records:
    """At most so many images, evenly spread over a split."""
    count = len(records)
    if count <= most:
        return records
    return records.take(np.arange(most) * count // most)


def like(trainer: Trainer, recipe: Recipe) -> Trainer:
    """A trial over a copy of a trial's network, with the section `train` of another recipe.

    Raises UsageError where nothing can be compiled.
    """
    run, names = replace(trainer.run, recipe=recipe), trainer.data.train_records.class_names
    detector = copy.deepcopy(trainer.network.detector)
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    detector.to(memory_format=layout)
    return replace(
        trainer,
        run=run,
        network=network_of(run, detector, names, 0.0),
        averages=averages_of(recipe, detector),
        meter=Meter(run.ranks.device),
        position=Position(),
    )


def repeated(trainer: Trainer, held: Sequence[Batch]) -> Iterator[Batch]:
    """The same batches over and over, epochs of the usual length."""
    position, length = trainer.position, len(trainer.data.train_loader)
    for batch in itertools.cycle(held):
        if position.batch >= length:
            position.epoch, position.batch = position.epoch + 1, 0
        yield batch
