"""Small detectors with a second stage, and what their tests show them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detcli.types import Target
from tests.models.specs import SMALL_OF, TWO_STAGE, detector, target

CANVAS = (96, 128)
NUM_CLASSES = 3

each_detector = pytest.mark.parametrize("name", TWO_STAGE)


def small(name: str, *changes: dict[str, Any]) -> nn.Module:
    return detector(name, SMALL_OF[name], *changes, num_classes=NUM_CLASSES)


def batch(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *CANVAS, generator=torch.Generator().manual_seed(3))


def some_targets() -> list[Target]:
    return [
        target([[10, 12, 40, 60], [50, 20, 110, 80], [8, 8, 14, 14]], [0, 2, 2], CANVAS),
        target([[20, 30, 60, 90]], [1], (96, 96)),
    ]


def random_boxes(count: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60 * scale
    return torch.cat(
        [corner, corner + 4 + torch.rand(count, 2, generator=generator) * 60 * scale], dim=1
    )


def wide_awake(model: nn.Module) -> nn.Module:
    """With predictions that differ from region to region."""
    heads = model.heads if hasattr(model, "heads") else [model.head]
    for part in (model.rpn.class_logits, model.rpn.box, *(head.class_logits for head in heads)):
        nn.init.normal_(part.weight, std=0.1)
    for head in heads:
        nn.init.normal_(head.box.weight, std=0.02)
    return model
