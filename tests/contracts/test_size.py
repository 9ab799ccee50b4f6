"""Parameters and multiply-adds of the published models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detcli.engine.profile.macs import count_macs
from tests.models.specs import (
    ATSS_MM,
    CENTERNET_MM,
    CENTERNET_MM_DCN,
    FCOS_MM,
    FCOS_MM_CENTER,
    GA_RETINANET_MM,
    NAS_FCOS_MM,
    RETINANET_MM,
    detector,
)

pytestmark = pytest.mark.slow

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
VFNET_MDCONV = {"backbone": {"dcn": {"stages": [2, 3, 4]}}, "head": {"deform_last": True}}
NUM_CLASSES = {"detr": 91, "deformable_detr": 91}  # COCO's ids
R101 = {"backbone": {"depth": 101}}
DETR_DC5 = {"backbone": {"last_map": "dc5"}}
# The figures of DETR's authors are means over the first 100 images of COCO val2017: those of one of
# 800 x 1140, both with C5 and with DC5. Deformable DETR's grow with the first power of the width
# only, so that wide images count for less in its mean.
DETR_SIDES, DEFORMABLE_SIDES = (800, 1140), (800, 1130)
REFINE = {"refine": True}
TWO_STAGE = {"refine": True, "two_stage": True}
# name, changes, parameters and trainable parameters in millions, multiply-adds in billions for an
# image of 800 x 1280, SSD's of 300 x 300 and 512 x 512, CenterNet's of 512 x 512
PUBLISHED = [
    ("retinanet", RETINANET_MM, 37.97, 37.74, 239),
    ("atss", ATSS_MM, 32.30, 32.07, 205),
    ("atss", R101, 51.29, 51.06, 281),
    ("fcos", FCOS_MM, 32.30, 32.02, 200),
    ("fcos", FCOS_MM_CENTER, 32.30, 32.02, None),
    ("ga_retinanet", GA_RETINANET_MM, 37.60, 37.33, 201),
    ("nas_fcos", NAS_FCOS_MM, 38.57, 38.29, 134),
    ("vfnet", {}, 32.89, 32.67, 193),
    ("vfnet", VFNET_MDCONV, 33.89, 33.66, 143),
    ("ssd", {}, 34.31, 34.31, 34.4),
    ("ssd", SSD512, 36.04, 36.04, 98.6),
    ("centernet", CENTERNET_MM, 14.22, 14.22, 13.1),
    ("centernet", CENTERNET_MM_DCN, 14.44, 14.44, 12.4),
    ("detr", {}, 41.52, 41.30, 86),
    ("detr", DETR_DC5, 41.52, 41.30, 187),
    ("deformable_detr", {}, 40.07, 39.85, 173),
    ("deformable_detr", REFINE, 40.85, 40.63, 173),
    ("deformable_detr", TWO_STAGE, 41.18, 40.96, None),
]


@pytest.mark.parametrize(("name", "changes", "total", "trainable", "gmacs"), PUBLISHED)
def test_published_size(
    name: str, changes: dict[str, Any], total: float, trainable: float, gmacs: float | None
) -> None:
    with torch.device("meta"):  # shapes only: no weights, no arithmetic
        model = detector(name, changes, num_classes=NUM_CLASSES.get(name, 80)).eval()
        sides = {
            "ssd": (512, 512) if changes else (300, 300),
            "centernet": (512, 512),
            "detr": DETR_SIDES,
            "deformable_detr": DEFORMABLE_SIDES,
        }
        image = torch.zeros(1, 3, *sides.get(name, (800, 1280)))
    counts = [(p.numel() / 1e6, p.requires_grad) for p in model.parameters()]
    assert sum(count for count, _ in counts) == pytest.approx(total, rel=1e-3)
    assert sum(count for count, learns in counts if learns) == pytest.approx(trainable, rel=1e-3)
    if gmacs is None:
        return
    macs = count_macs(model, image)
    sampled = ("deformable convolution", "bilinear sampling")  # left out where published
    plain = macs.total - sum(macs.by_operation.get(kind, 0) for kind in sampled)
    assert plain / 1e9 == pytest.approx(gmacs, rel=0.01)
