"""What a CUDA device has room for, and cudnn.benchmark where input shapes change: the warning, and
what each new shape costs.

Note 002: the switch pays only where shapes stay the same, otherwise the search for the fastest
convolution is repeated for every new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detcli.data.records import Records
from detcli.engine.train.input_shapes import has_fixed_shape, input_shapes
from detcli.engine.train.memory_probe import fits, worst_batch
from detcli.engine.train.trainer import Trainer
from detcli.recipe import Recipe, override_recipe
from detcli.types import Target

LIMIT = 1024  # images of the largest batch that is looked for
CUT_PX = 32  # taken off the largest shape, which gives one that no batch has had


@dataclass(frozen=True)
class Autotune:
    """on: whether cudnn.benchmark is on; shapes: how many shapes whole images have; search_ms:
    what the first forward and backward of a new shape takes longer with it than later ones."""

    on: bool
    shapes: int
    search_ms: float


def shape_warnings(recipe: Recipe, records: Records) -> list[str]:
    """A sentence where cudnn.benchmark is asked for although shapes change."""
    if recipe.train.cudnn_benchmark != "on" or has_fixed_shape(recipe, records):
        return []
    return [
        f"train.cudnn_benchmark is on, but input shapes change "
        f"({len(input_shapes(recipe, records))} of whole images): on CUDA every new shape starts "
        "autotuning again; use auto or off, or one shape (data.resize)"
    ]


def measure_autotune(trainer: Trainer) -> Autotune | None:
    """What a search costs here; None on the CPU, where there is none."""
    if trainer.run.ranks.device.type != "cuda":
        return None
    shapes = len(input_shapes(trainer.run.recipe, trainer.data.train_records))
    on = torch.backends.cudnn.benchmark
    return Autotune(on, shapes, search_ms(trainer, *unseen_batch(trainer)))


def unseen_batch(trainer: Trainer) -> tuple[Tensor, list[Target]]:
    """The largest batch, cut on two sides to a shape of its own."""
    images, targets = worst_batch(
        trainer.run.recipe, trainer.data.train_records, trainer.run.ranks.device
    )
    images = images[:, :, CUT_PX:, CUT_PX:].contiguous()
    size = (images.shape[-2], images.shape[-1])
    limit = torch.tensor([size[1], size[0]] * 2, device=images.device)
    cut = [
        Target(boxes[solid], target.labels[solid], target.ignore_boxes, size)
        for target in targets
        for boxes in [target.boxes.minimum(limit)]
        for solid in [(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    ]
    return images, cut


def search_ms(trainer: Trainer, images: Tensor, targets: Sequence[Target]) -> float:
    """Milliseconds that the first pass over a batch of a new shape takes longer than the second,
    with cudnn.benchmark on; before that a pass without it loads what every first pass loads."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):
        _pass_seconds(trainer, images, targets)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        first, second = (_pass_seconds(trainer, images, targets) for _ in range(2))
    return max(0.0, first - second) * 1e3


def _pass_seconds(trainer: Trainer, images: Tensor, targets: Sequence[Target]) -> float:
    began = time.perf_counter()
    fits(trainer.run.recipe, trainer.network, images, targets)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - began


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
