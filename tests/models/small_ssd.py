"""A small SSD, and images and objects for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detcli.models import ssd
from detcli.types import Target
from tests.models.specs import SMALL_SSD, detector, target, thin_vgg

CANVAS = (64, 96)
NUM_CLASSES = 3


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone with few channels in the place of VGG-16."""
    monkeypatch.setitem(ssd.BACKBONES, "vgg16", thin_vgg)


def small(*changes: dict[str, Any]) -> nn.Module:
    return detector("ssd", SMALL_SSD, *changes, num_classes=NUM_CLASSES)


def batch() -> Tensor:
    return torch.randn(2, 3, *CANVAS, generator=torch.Generator().manual_seed(3))


def some_targets() -> list[Target]:
    return [
        target([[10, 12, 40, 60], [50, 20, 90, 60], [8, 8, 14, 14]], [0, 2, 2], CANVAS),
        target([[20, 3, 60, 60]], [1], CANVAS),
    ]
