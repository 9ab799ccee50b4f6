"""One training step: its randomness, its losses, and what the optimiser makes of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detcli.engine.run.batch import autocast
from detcli.engine.train.trainer import Network, Trainer
from detcli.errors import DivergedError
from detcli.phases import phase
from detcli.recipe import Recipe
from detcli.types import Target


def seed_step(trainer: Trainer) -> None:
    """Make the step's randomness a function of (seed, batch, rank), so that resuming and replaying
    repeat it without any saved generator state."""
    position, ranks = trainer.position, trainer.run.ranks
    done = position.epoch * len(trainer.data.train_loader) + position.batch
    torch.manual_seed(
        trainer.run.recipe.train.seed + (done * ranks.world_size + ranks.rank) * 1_000_003
    )


def ends_step(trainer: Trainer) -> bool:
    """Whether the current batch completes an accumulated step; the last of an epoch always does."""
    number = trainer.position.batch + 1
    accumulate = trainer.run.recipe.train.accumulate
    return number % accumulate == 0 or number == len(trainer.data.train_loader)


def group_size(trainer: Trainer) -> int:
    """How many batches the current step accumulates; the last of an epoch may have fewer."""
    accumulate, total = trainer.run.recipe.train.accumulate, len(trainer.data.train_loader)
    first = trainer.position.batch // accumulate * accumulate
    return min(accumulate, total - first)


def no_sync(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep gradients on this rank until the step is complete."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        manager: contextlib.AbstractContextManager[None] = model.no_sync()
        return manager
    return contextlib.nullcontext()


def compute_losses(
    recipe: Recipe, network: Network, images: Tensor, targets: Sequence[Target]
) -> dict[str, Tensor]:
    """Forward in the recipe's precision, losses in float32."""
    with phase("forward"), autocast(recipe, images.device):
        outputs = network.model(images, targets)
    with phase("loss"):
        if network.distill is not None:
            return network.distill.losses(network.detector, outputs, images, targets)
        losses: dict[str, Tensor] = network.detector.loss(outputs, targets)  # type: ignore[operator]
        return losses


def take_step(trainer: Trainer) -> None:
    """Clip, step, and move schedule and moving average on. Raises DivergedError where clipping
    meets a gradient that is not finite."""
    network, position = trainer.network, trainer.position
    trainer.schedule.apply(network.optimizer, trainer.learning_rate.lr, position.step)
    clip_gradients(trainer.run.recipe, network)
    network.scaler.step(network.optimizer)
    network.scaler.update()
    network.optimizer.zero_grad(set_to_none=True)
    position.step += 1
    if trainer.averages.ema is not None:
        with phase("ema"):
            trainer.averages.ema.update(network.detector, position.step)


def clip_gradients(recipe: Recipe, network: Network) -> None:
    """Clip them by value and by norm, each where the recipe asks for it."""
    optim, scaler = recipe.optim, network.scaler
    parameters = [value for group in network.optimizer.param_groups for value in group["params"]]
    if optim.clip_norm or optim.clip_value:
        scaler.unscale_(network.optimizer)
    if optim.clip_value:
        nn.utils.clip_grad_value_(parameters, optim.clip_value)
    if optim.clip_norm:
        norm = nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        if not scaler.is_enabled() and not torch.isfinite(norm):
            raise DivergedError(f"gradient norm = {norm.item():g}")
