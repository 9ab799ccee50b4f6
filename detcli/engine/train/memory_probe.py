"""Before the first epoch on a CUDA device: does the worst batch fit into memory?

Out-of-memory errors otherwise come late, on the largest or densest image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detcli.data.records import Records
from detcli.engine.train.input_shapes import largest_shape, most_boxes
from detcli.engine.train.meter import peak_memory_gib
from detcli.engine.train.step import compute_losses
from detcli.engine.train.trainer import Network, Trainer
from detcli.errors import UsageError
from detcli.recipe import Recipe
from detcli.types import Target


def probe_memory(trainer: Trainer) -> None:
    """Run forward and backward on the largest input shape with the most boxes an image has.

    Gradients and buffers are left as they were. Raises UsageError with advice when the memory
    does not suffice. Does nothing on the CPU.
    """
    recipe, device = trainer.run.recipe, trainer.run.ranks.device
    if device.type != "cuda":
        return
    images, targets = worst_batch(recipe, trainer.data.train_records, device)
    if not fits(recipe, trainer.network, images, targets):
        raise UsageError(
            f"{recipe.name}: a batch of {tuple(images.shape)} with "
            f"{len(targets[0].labels)} boxes an image does not fit into the memory of {device}; "
            "lower data.batch_per_rank (with train.accumulate the step stays the same), "
            "train.amp=bf16, or smaller images (data.resize)"
        )
    trainer.run.log.say(
        f"memory probe: {tuple(images.shape)} with {len(targets[0].labels)} boxes an image "
        f"takes {peak_memory_gib(device):.2f} GiB"
    )


def fits(recipe: Recipe, network: Network, images: torch.Tensor, targets: Sequence[Target]) -> bool:
    """Whether forward and backward find enough memory; gradients and buffers are left as they
    were."""
    buffers = {name: value.clone() for name, value in network.detector.named_buffers()}
    network.detector.train()
    try:
        losses = compute_losses(recipe, network, images, targets)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        return False
    finally:
        network.optimizer.zero_grad(set_to_none=True)
        for name, value in network.detector.named_buffers():
            value.copy_(buffers[name])
    return True


def worst_batch(
    recipe: Recipe, records: Records, device: torch.device
) -> tuple[torch.Tensor, list[Target]]:
    """A batch of noise of the largest shape; each image has as many boxes as one can have."""
    batch = recipe.data.batch_per_rank
    height, width = largest_shape(recipe, records)
    count = most_boxes(recipe, records)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.8
    sides = (0.05 + 0.15 * torch.rand(count, 2, generator=generator)) * min(width, height)
    target = Target(
        torch.cat([corners, corners + sides], dim=1),
        torch.arange(count) % records.num_classes,
        torch.zeros(0, 4),
        (height, width),
    ).to(device)
    images = torch.randn(batch, 3, height, width, generator=generator)
    return images.to(device), [target] * batch
