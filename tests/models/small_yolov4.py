"""A small YOLOv4, and raw outputs and objects for its losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detcli.models.yolov4 import YOLOv4Outputs
from tests.models.specs import SMALL_OF, detector, target

CANVAS = (64, 96)
CLASSES = 3


def small(*changes: dict[str, Any]) -> nn.Module:
    return detector("yolov4", SMALL_OF["yolov4"], *changes, num_classes=CLASSES)


def some_case(seed: int) -> tuple[YOLOv4Outputs, list]:
    """Raw outputs for two images; two objects share a cell and an anchor."""
    generator = torch.Generator().manual_seed(seed)
    raw = tuple(
        torch.randn(
            2, count * (5 + CLASSES), CANVAS[0] // stride, CANVAS[1] // stride, generator=generator
        )
        for stride, count in ((8, 3), (16, 3), (32, 2))
    )
    boxes = [[10.0, 12, 20, 30], [11.0, 12, 19, 30], [30.0, 20, 90, 60], [60.0, 4, 84, 24]]
    targets = [target(boxes, [0, 2, 1, 2], CANVAS), target([[5.0, 5, 25, 25]], [1], CANVAS)]
    return YOLOv4Outputs(raw, CANVAS), targets


ANCHORS = {"anchors": [[10, 10, 12, 20, 16, 24], [24, 20, 30, 30, 30, 50], [50, 40, 70, 80]]}
