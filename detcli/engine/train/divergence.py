"""When a loss is not finite: name it, save the batch, and run that very step again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detcli.engine.run import checkpoint
from detcli.errors import CheckpointError, DivergedError
from detcli.types import Target


def broken_terms(losses: dict[str, Tensor]) -> str:
    """The loss terms that are NaN or infinite, by name; empty where all are finite."""
    values = torch.stack([value.detach().float() for value in losses.values()])
    if torch.isfinite(values).all():
        return ""
    return ", ".join(
        f"{name} = {value:g}"
        for name, value in zip(losses, values.tolist(), strict=True)
        if not math.isfinite(value)
    )


def check_finite(losses: dict[str, Tensor]) -> None:
    """Raise DivergedError before a NaN or an infinity reaches the weights."""
    if broken := broken_terms(losses):
        raise DivergedError(broken)


def diverged(reason: str, where: str, path: Path) -> DivergedError:
    """The error that ends the run; its one line says what, where, and what to do."""
    return DivergedError(
        f"training diverged at {where}: {reason}; the batch is in {path} "
        f"(`detcli train --replay {path}` runs it again); "
        "a lower optim.lr, optim.clip_norm or a longer warm-up usually helps"
    )


def save_batch(
    path: Path,
    images: Tensor,
    targets: tuple[Target, ...],
    model: nn.Module,
    context: dict[str, Any],
) -> None:
    """Write everything that the step depended on: batch, weights, seed, recipe."""
    checkpoint.save(
        path,
        {
            **context,
            "kind": "replay",
            "images": images.cpu(),
            "targets": [
                {
                    "boxes": target.boxes.cpu(),
                    "labels": target.labels.cpu(),
                    "ignore_boxes": target.ignore_boxes.cpu(),
                    "size": list(target.size),
                }
                for target in targets
            ],
            "model": model.state_dict(),
        },
    )


def load_batch(path: Path, device: torch.device) -> tuple[dict[str, Any], Tensor, list[Target]]:
    """What `save_batch` wrote: the whole content, and images and targets on `device`."""
    content = checkpoint.load(path)
    if content.get("kind") != "replay":
        raise CheckpointError(f"{path}: a checkpoint, but no batch saved for replay")
    targets = [
        Target(entry["boxes"], entry["labels"], entry["ignore_boxes"], tuple(entry["size"])).to(
            device
        )
        for entry in content["targets"]
    ]
    return content, content["images"].to(device), targets
