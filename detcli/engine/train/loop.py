"""The training loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from detcli.engine.detect.evaluate import Evaluation
from detcli.engine.run.batch import network_input
from detcli.engine.train import divergence
from detcli.engine.train.epoch_end import Measured, end_epoch
from detcli.engine.train.state import identity, save
from detcli.engine.train.step import (
    compute_losses,
    ends_step,
    group_size,
    no_sync,
    seed_step,
    take_step,
)
from detcli.engine.train.trainer import Trainer
from detcli.errors import DivergedError
from detcli.phases import phase
from detcli.types import Batch, Target


def fit(trainer: Trainer) -> Evaluation | None:
    """Train from the trainer's position to the last epoch; the last evaluation, on rank 0."""
    measured = Measured()
    while trainer.position.epoch < trainer.schedule.epochs:
        trainer.network.detector.train()
        trainer.meter.start()
        for batch in epoch_batches(trainer):
            train_batch(trainer, batch)
        measured = end_epoch(trainer)
        if trainer.goal_ap50 is not None and measured.ap50 > trainer.goal_ap50:
            break
    return measured.evaluation


def train_batch(trainer: Trainer, batch: Batch) -> None:
    """Forward and backward of one batch and, where it completes a step, the step."""
    recipe, network = trainer.run.recipe, trainer.network
    with phase("transfer"):
        images, targets = network_input(recipe, batch, trainer.run.ranks.device)
    seed_step(trainer)
    at_step = ends_step(trainer)
    try:
        with contextlib.nullcontext() if at_step else no_sync(network.model):
            losses = compute_losses(recipe, network, images, targets)
            with phase("check"):
                divergence.check_finite(losses)
            with phase("backward"):
                total = torch.stack(list(losses.values())).sum()
                network.scaler.scale(total / group_size(trainer)).backward()  # type: ignore[no-untyped-call]
        with phase("logging"):
            trainer.meter.add(losses, batch)
        trainer.position.batch += 1
        if at_step:
            with phase("optimiser"):
                take_step(trainer)
    except DivergedError as error:
        raise give_up(trainer, str(error), images, targets) from None
    if at_step:
        end_step(trainer)


def end_step(trainer: Trainer) -> None:
    """Log and save where it is time to."""
    step, settings = trainer.position.step, trainer.run.recipe.train
    if step % settings.log_every == 0:
        with phase("logging"):
            log_step(trainer)
    if settings.save_every and step % settings.save_every == 0:
        trainer.meter.reset()  # a resumed run starts its window here too
        save(trainer, "last.pt")


def epoch_batches(trainer: Trainer) -> Iterator[Batch]:
    """The rest of the current epoch, with a progress bar, timed."""
    position, loader = trainer.position, trainer.data.train_loader
    batches = trainer.meter.timed(loader.start(position.epoch, skip=position.batch))
    what = f"epoch {position.epoch + 1}/{trainer.schedule.epochs}"
    return trainer.run.log.track(batches, what, len(loader), position.batch)


def endless_batches(trainer: Trainer) -> Iterator[Batch]:
    """The training batches, epoch after epoch with nothing in between, timed."""
    position = trainer.position
    while True:
        yield from trainer.meter.timed(trainer.data.train_loader.start(position.epoch))
        position.epoch, position.batch = position.epoch + 1, 0


def give_up(
    trainer: Trainer, reason: str, images: Tensor, targets: Sequence[Target]
) -> DivergedError:
    """Save the batch for replay; the error to raise."""
    position, run = trainer.position, trainer.run
    path = run.folder / f"diverged-rank{run.ranks.rank}.pt"
    context = {**identity(trainer), "step": position.step, "seed": torch.initial_seed()}
    divergence.save_batch(path, images, tuple(targets), trainer.network.detector, context)
    where = f"epoch {position.epoch + 1}, step {position.step + 1}"
    return divergence.diverged(reason, where, path)


def log_step(trainer: Trainer) -> None:
    """One line for the reader and one for metrics.jsonl; starts a new window."""
    position, meter, log = trainer.position, trainer.meter, trainer.run.log
    losses, speed = meter.losses(), meter.speed(trainer.run.ranks.world_size)
    lr = trainer.learning_rate.lr * trainer.schedule.factor(position.step - 1)
    log.record(
        {"kind": "train", "epoch": position.epoch + 1, "step": position.step, "lr": lr}
        | losses
        | speed
    )
    terms = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
    log.say(
        f"epoch {position.epoch + 1}/{trainer.schedule.epochs} step {position.step} | {terms} | "
        f"lr {lr:.3g} | {speed['images_per_s']:.1f} images/s | "
        f"data wait {speed['data_wait']:.0%} | {speed['memory_gib']:.2f} GiB"
    )
    meter.reset()
