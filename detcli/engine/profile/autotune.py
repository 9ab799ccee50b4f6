"""cudnn.benchmark where input shapes change: the warning, and what each new shape costs.

Note 002: it pays only where shapes stay the same, otherwise the search for the fastest
convolution is repeated for every new one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detcli.data.records import Records
from detcli.engine.train.input_shapes import has_fixed_shape, input_shapes
from detcli.engine.train.memory_probe import fits, worst_batch
from detcli.engine.train.trainer import Trainer
from detcli.recipe import Recipe
from detcli.types import Target

CUT_PX = 32  # taken off the largest shape, which gives one that no batch has had


@dataclass(frozen=True)
class Autotune:
    """on: whether cudnn.benchmark is on; shapes: how many shapes whole images have; search_ms:
    what the first forward and backward of a new shape takes longer with it than later ones."""

    on: bool
    shapes: int
    search_ms: float

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))


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
