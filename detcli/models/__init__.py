"""Detectors by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from detcli.models.atss import build_atss
from detcli.models.fcos import build_fcos
from detcli.models.retinanet import build_retinanet
from detcli.models.ssd import build_ssd

DETECTORS: dict[str, Callable[..., nn.Module]] = {
    "retinanet": build_retinanet,
    "fcos": build_fcos,
    "atss": build_atss,
    "ssd": build_ssd,
}


def build_detector(name: str, *, num_classes: int, **keywords: Any) -> nn.Module:
    """The detector of this name; keywords are the rest of a recipe's model section."""
    return DETECTORS[name](num_classes=num_classes, **keywords)
