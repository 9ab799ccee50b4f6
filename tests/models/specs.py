"""Model sections for tests: the schema's defaults with some keys changed, and their detectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detcli.models import build_detector
from detcli.models.backbones.vgg import VGG16
from detcli.recipe import model as schema
from detcli.recipe.ssd import Ssd
from detcli.types import Target

SECTIONS: dict[str, Any] = {
    "retinanet": schema.RetinaNet,
    "fcos": schema.Fcos,
    "atss": schema.Atss,
    "ssd": Ssd,
}

RETINANET_MM = {"neck": {"extra_from": "c5"}}
ATSS_MM: dict[str, Any] = {}
FCOS_MM = {
    "backbone": {"style": "caffe", "norm": "frozen_bn"},
    "neck": {"extra_relu": True},
}
FCOS_MM_CENTER = {
    **FCOS_MM,
    "head": {"conv_bias": True},
    "assigner": {"name": "fcos", "center_radius": 1.5},
    "box_loss": {"name": "giou"},
    "centerness_on": "box",
    "stride_units": True,
}
RETINANET_TORCHVISION = {
    "backbone": {"norm_eps": 0.0},
    "neck": {"extra_relu": True},
    "anchors": {
        "sizes": [
            [side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))]
            for side in (32, 64, 128, 256, 512)
        ],
        "round_corners": True,
        "fit_grid": True,
    },
}
FCOS_TORCHVISION = {
    "neck": {"extra_relu": True},
    "head": {"conv_bias": True},
    "centerness_on": "box",
    "stride_units": True,
    "point_offset": 0.0,
    "fit_grid": True,
    "score": "sqrt_product",
    "score_threshold": 0.2,
}
# A detector that a test can train in a second.
SMALL = {
    "backbone": {"depth": 18, "norm_eval": False, "frozen_stages": 0},
    "neck": {"out_channels": 64},
    "head": {"num_convs": 1, "norm": "gn"},
}
# The same with levels that images of 64 pixels have room for.
SMALL_SSD = {
    "neck": {"out_channels": [64, 64], "strides": [2, 2], "paddings": [1, 1]},
    "anchors": {
        "sizes": [16, 32, 64, 96, 128],
        "ratios": [[2], [2, 3], [2], [2]],
        "strides": [8, 16, 32, 64],
    },
}
SMALL_OF: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("retinanet", "fcos", "atss"), SMALL),
    "ssd": SMALL_SSD,
}


def thin_vgg(*, frozen_stages: int, weights: None) -> VGG16:
    """A VGG-16 with few channels, in the place of the real one."""
    return VGG16(channels=(16, 16, 32, 64, 64), fc_channels=64, frozen_stages=frozen_stages)


FPN_DETECTORS = tuple(name for name, small in SMALL_OF.items() if small is SMALL)


def section(name: str, *changes: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a builder: the schema's defaults, random weights, then the changes."""
    merged: dict[str, Any] = {"name": name, "backbone": {"weights": None}}
    for change in changes:
        merged = _merge(merged, change)
    keywords = SECTIONS[name].model_validate(merged).model_dump()
    keywords.pop("name")
    return keywords


def detector(name: str, *changes: dict[str, Any], num_classes: int = 80) -> nn.Module:
    """A detector with random weights, always the same ones."""
    torch.manual_seed(0)
    return build_detector(name, num_classes=num_classes, **section(name, *changes))


def target(
    boxes: list[list[float]],
    labels: list[int],
    size: tuple[int, int],
    ignore: list[list[float]] | None = None,
) -> Target:
    """A target from plain lists."""
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(ignore or [], dtype=torch.float32).reshape(-1, 4),
        size,
    )


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) else value
    return merged
