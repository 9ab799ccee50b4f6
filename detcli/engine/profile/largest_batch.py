"""The largest batch that a CUDA device has room for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from detcli.engine.train.memory_probe import fits, worst_batch
from detcli.engine.train.trainer import Trainer
from detcli.recipe import override_recipe

LIMIT = 1024  # images


def largest_batch(trainer: Trainer) -> int | None:
    """The most images of the largest input shape, each with the most boxes one can have, whose
    forward and backward fit into memory; 0 where one image does not, None on the CPU, which
    would swap."""
    if trainer.run.ranks.device.type != "cuda":
        return None
    return largest(lambda count: batch_fits(trainer, count), trainer.run.recipe.data.batch_per_rank)


def batch_fits(trainer: Trainer, count: int) -> bool:
    """Whether a batch of this many images fits."""
    override = [f"data.batch_per_rank={count}"]
    recipe = override_recipe(trainer.run.recipe, override, trainer.run.recipe.name)
    try:
        batch = worst_batch(recipe, trainer.data.train_records, trainer.run.ranks.device)
        return fits(recipe, trainer.network, *batch)
    except torch.OutOfMemoryError:  # of the images themselves
        return False
    finally:
        torch.cuda.empty_cache()


def largest(fits_at: Callable[[int], bool], start: int) -> int:
    """The largest number up to LIMIT at which `fits_at`, which never turns true again once it is
    false, is true; 0 where there is none. start: where to look first."""
    low, high = 0, min(start, LIMIT)
    while high <= LIMIT and fits_at(high):
        low, high = high, 2 * high
    high = min(high, LIMIT + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits_at(middle) else (low, middle)
    return low
