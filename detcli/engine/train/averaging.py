"""Which weights of a run count: the last ones, or an average."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from torch import nn

from detcli.engine.run.batch import autocast, network_input
from detcli.engine.train.swa import Swa, reestimate_norms
from detcli.models.detector import Detector
from detcli.types import Batch

if TYPE_CHECKING:
    from detcli.engine.train.loop import Trainer


def average_weights(trainer: Trainer, swa: Swa) -> None:
    """Take the weights into the mean, and make its batch norms fit it with a pass over the images
    of the coming epoch."""
    started, position = time.perf_counter(), trainer.position
    swa.update(trainer.detector)
    batches = trainer.train_loader.start(position.epoch)
    count = reestimate_norms(swa.model, batches, functools.partial(forward_only, trainer))
    seconds = time.perf_counter() - started
    done = f"{count} batch norms re-estimated over the training images ({seconds:.1f} s)"
    trainer.log.say(
        f"epoch {position.epoch}: {swa.holds(position.epoch)} is evaluated and saved; "
        f"{done if count else 'no batch norm trains, so none is re-estimated'}"
    )


def forward_only(trainer: Trainer, model: nn.Module, batch: Batch) -> None:
    """A forward pass of `model` in the recipe's precision, for what it leaves in buffers."""
    images, targets = network_input(trainer.recipe, batch, trainer.ranks.device)
    with autocast(trainer.recipe, trainer.ranks.device):
        model(images, targets)


def evaluated(trainer: Trainer) -> Detector:
    """The detector with the weights that count: averaged ones where there are any."""
    if trainer.ema is not None:
        return trainer.ema.model
    if trainer.swa is not None and trainer.swa.count:
        return trainer.swa.model
    return trainer.detector


def holds(trainer: Trainer) -> str:
    """Which weights are evaluated, and used by whoever reads a checkpoint, in words."""
    if trainer.ema is not None:
        return "the moving average of the weights"
    return "the last weights" if trainer.swa is None else trainer.swa.holds(trainer.position.epoch)
