"""Parameters and multiply-adds of the published models (../shared/parity/MODELS.md)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.models.specs import ATSS_MM, FCOS_MM, FCOS_MM_CENTER, RETINANET_MM, detector

SSD512 = {
    "neck": {
        "out_channels": [512, 256, 256, 256, 256],
        "strides": [2, 2, 2, 2, 1],
        "paddings": [1, 1, 1, 1, 1],
        "last_kernel": 4,
    },
    "anchors": {
        "sizes": [20, 51, 133, 215, 296, 378, 460, 542],
        "ratios": [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]],
        "strides": [8, 16, 32, 64, 128, 256, 512],
    },
}
R101 = {"backbone": {"depth": 101}}
# name, changes, parameters and trainable parameters in millions, multiply-adds in billions for an
# image of 800 x 1280, SSD's of 300 x 300 and 512 x 512
PUBLISHED = [
    ("retinanet", RETINANET_MM, 37.97, 37.74, 239),
    ("atss", ATSS_MM, 32.30, 32.07, 205),
    ("atss", R101, 51.29, 51.06, 281),
    ("fcos", FCOS_MM, 32.30, 32.02, 200),
    ("fcos", FCOS_MM_CENTER, 32.30, 32.02, None),
    ("ssd", {}, 34.31, 34.31, 34.4),
    ("ssd", SSD512, 36.04, 36.04, 98.6),
]


@pytest.mark.parametrize(("name", "changes", "total", "trainable", "gmacs"), PUBLISHED)
def test_published_size(
    name: str, changes: dict[str, Any], total: float, trainable: float, gmacs: float | None
) -> None:
    with torch.device("meta"):  # shapes only: no weights, no arithmetic
        model = detector(name, changes).eval()
        sides = {"ssd": (512, 512) if changes else (300, 300)}.get(name, (800, 1280))
        image = torch.zeros(1, 3, *sides)
    counts = [(p.numel() / 1e6, p.requires_grad) for p in model.parameters()]
    assert sum(count for count, _ in counts) == pytest.approx(total, rel=1e-3)
    assert sum(count for count, learns in counts if learns) == pytest.approx(trainable, rel=1e-3)
    if gmacs is None:
        return
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.01)
