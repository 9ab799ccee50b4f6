"""Model sections for tests: the schema's defaults with some keys changed, and their detectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import torch
from torch import nn

from detcli.models import build_detector
from detcli.models.backbones.vgg import VGG16
from detcli.recipe.sections.models.table import Model
from detcli.types import Target

SECTIONS: dict[str, Any] = {  # every class of the union, by its name
    get_args(section.model_fields["name"].annotation)[0]: section
    for section in get_args(get_args(Model)[0])
}

RETINANET_MM = {"neck": {"extra_from": "c5"}}
ATSS_MM: dict[str, Any] = {}
FCOS_MM = {"backbone": {"style": "caffe", "norm": "frozen_bn"}, "neck": {"extra_relu": True}}
GA_RETINANET_MM = {"backbone": {"style": "caffe", "norm": "frozen_bn"}}
NAS_FCOS_MM = {"backbone": {"style": "caffe", "norm": "frozen_bn", "norm_eps": 0.0}}
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
CASCADE_MM = {
    "backbone": {"name": "resnet"},
    "neck": {"name": "fpn"},
    "rpn": {
        "trained_anchors": "box_inside",
        "box_loss": {"name": "smooth_l1"},
        "proposals": {"train": {"max_per_image": 2000}},
    },
}
GA_FASTER_MM: dict[str, Any] = {
    "backbone": {"name": "resnet", "style": "caffe", "norm": "frozen_bn"},
    "neck": {"name": "fpn"},
    "rpn": {
        "guidance": {"location_target": "rest"},
        "proposals": {"train": {"max_per_image": 300}, "test": {"max_per_image": 300}},
    },
    "assigner": {
        "name": "max_iou",
        "positive_iou": 0.6,
        "negative_iou": 0.6,
        "min_positive_iou": None,
    },
    "sampler": {"num": 256},
    "delta_stds": [0.05, 0.05, 0.1, 0.1],
    "score_threshold": 0.001,
}
FASTER_TORCHVISION = {
    "backbone": {"name": "resnet", "norm_eps": 0.0},
    "neck": {"name": "fpn"},
    "rpn": {
        "anchors": {
            "base_scale": 8.0,
            "sizes": [[32], [64], [128], [256], [512]],
            "round_corners": True,
            "fit_grid": True,
        },
        "trained_anchors": "all",
        "assigner": {
            "name": "max_iou",
            "positive_iou": 0.7,
            "negative_iou": 0.3,
            "min_positive_iou": 0.0,
        },
        "box_loss": {"name": "smooth_l1"},
        "proposals": {"min_side_px": 1e-3, "train": {"max_per_image": 2000}},
    },
    "pooler": {"sampling_ratio": 2, "aligned": False},
    "box_loss": {"name": "smooth_l1"},
}
CENTERNET_MM = {"backbone": {"name": "resnet"}, "neck": {"name": "deconv"}}
CENTERNET_MM_DCN = {**CENTERNET_MM, "neck": {"name": "deconv", "conv": "dcn"}}
CENTERNET_AUTHORS = {
    "assigner": {
        "radius": "cornernet",
        "min_overlap": 0.7,
        "whole_cells": True,
        "shared_cells": "all",
    },
    "class_loss": {"min_probability": 1e-4},
}
CENTERNET_RESDCN = {
    **CENTERNET_AUTHORS,
    "backbone": {"name": "resnet"},
    "neck": {"name": "deconv", "conv": "dcn", "conv_bias": True},
}
CENTERNET_DLA = {
    **CENTERNET_AUTHORS,
    "backbone": {"name": "dla34"},
    "neck": {"name": "dla_up"},
    "head": {"channels": 256},
}
# Every assigned anchor and region learns: nothing is left to chance.
KEEP_ALL = {"rpn": {"sampler": {"num": None}}, "sampler": {"num": None}}
# A detector that a test can train in a second.
SMALL = {
    "backbone": {"depth": 18, "norm_eval": False, "frozen_stages": 0},
    "neck": {"out_channels": 64},
    "head": {"num_convs": 1, "norm": "gn"},
}
# Levels and anchors that fit together, and that images of 64 pixels have room for.
SMALL_SSD = {
    "neck": {"out_channels": [64, 64], "strides": [2, 2], "paddings": [1, 1]},
    "anchors": {
        "sizes": [16, 32, 64, 96, 128],
        "ratios": [[2], [2, 3], [2], [2]],
        "strides": [8, 16, 32, 64],
    },
}
SMALL_TWO_STAGE: dict[str, Any] = {
    "backbone": {"name": "resnet", "depth": 18, "norm_eval": False, "frozen_stages": 0},
    "neck": {"name": "fpn", "out_channels": 64, "min_level": 3, "max_level": 5},
    "rpn": {
        "anchors": {"base_scale": 4.0},
        "proposals": {"train": {"max_per_image": 50}, "test": {"max_per_image": 50}},
        "sampler": {"num": None},
    },
    "pooler": {"side": 3, "scale": 4.0},
    "head": {"channels": 64},
    "sampler": {"num": None},
}
SMALL_CENTERNET: dict[str, Any] = {
    "backbone": {"name": "resnet"},
    "neck": {"name": "deconv", "channels": [64, 64, 64]},
}
SMALL_YOLOV4: dict[str, Any] = {
    "backbone": {"width": 0.125},
    "anchors": [[10, 10, 16, 24], [24, 20, 30, 50], [50, 40, 70, 80]],
}
SMALL_DETR: dict[str, Any] = {
    "backbone": {"depth": 18, "norm": "bn", "norm_eval": False, "frozen_stages": 0},
    "transformer": {
        "channels": 64,
        "num_heads": 4,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "ffn_channels": 64,
        "dropout": 0.0,
    },
    "num_queries": 10,
}
TWO_LAYERS: dict[str, Any] = {  # a set predictor for its importers
    "backbone": {"depth": 18},
    "transformer": {
        "channels": 32,
        "num_heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "ffn_channels": 48,
    },
    "num_queries": 6,
}
# What a family is made small by: the key that tells it, and changes of which a detector takes those
# whose keys it has. A new detector has no row here.
FAMILIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("backbone", SMALL),
    ("rpn", SMALL_TWO_STAGE),
    ("rpn", {"rpn": {"guidance": {"base_scale": 4.0, "sampler": {"num": None}}}}),
    ("transformer", SMALL_DETR),
    ("transformer", {"two_stage": True, "refine": True}),
)
FITTED = {"ssd": SMALL_SSD, "centernet": SMALL_CENTERNET, "yolov4": SMALL_YOLOV4}


def small_of(name: str) -> dict[str, Any]:
    """Changes that make a detector one that a test can train in a second."""
    defaults = SECTIONS[name].model_validate({"name": name, "backbone": {"weights": None}})
    small: dict[str, Any] = {}
    for key, changes in FAMILIES:
        if key in type(defaults).model_fields:
            small = _merge(small, _known(changes, defaults.model_dump()))
    return _merge(small, FITTED.get(name, {}))


def thin_vgg(options: Any) -> VGG16:
    """A VGG-16 with few channels, in the place of the real one."""
    frozen = options.frozen_stages
    return VGG16(channels=(16, 16, 32, 64, 64), fc_channels=64, frozen_stages=frozen)


def section(name: str, *changes: dict[str, Any]) -> Any:
    """What a builder is given: the schema's defaults, random weights, then the changes."""
    merged: dict[str, Any] = {"name": name, "backbone": {"weights": None}}
    for change in changes:
        merged = _merge(merged, change)
    return SECTIONS[name].model_validate(merged)


def tiny(name: str) -> dict[str, Any]:
    """No convolutions in the branches, where that is a choice."""
    return {"head": {"num_convs": 0}} if name in FPN_DETECTORS else {}


def detector(name: str, *changes: dict[str, Any], num_classes: int = 80) -> nn.Module:
    """A detector with random weights, always the same ones."""
    torch.manual_seed(0)
    return build_detector(section(name, *changes), num_classes=num_classes)


def criterion_of(model: Any) -> Any:
    """How a detector learns, with a second stage how the first look at regions does."""
    if hasattr(model, "stages"):
        return model.stages[0].criterion
    return getattr(model, "learning", model).criterion


def learn_by(model: Any, criterion: Any) -> None:
    """Gives it another criterion."""
    if hasattr(model, "stages"):
        model.stages = tuple(replace(stage, criterion=criterion) for stage in model.stages)
    elif hasattr(model, "learning"):
        model.learning = replace(model.learning, criterion=criterion)
    else:
        model.criterion = criterion


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


def _known(change: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The part of a change whose keys there are, with values of the kind they have."""
    known = {}
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            known[key] = _known(value, defaults[key])
        elif key in defaults and not isinstance(defaults[key], tuple | list | dict):
            known[key] = value
    return known


SMALL_OF = {name: small_of(name) for name in SECTIONS}
TWO_STAGE = tuple(name for name in SECTIONS if "rpn" in SECTIONS[name].model_fields)
# Those whose branches are towers of convolutions on a pyramid.
FPN_DETECTORS = tuple(name for name in SECTIONS if "num_convs" in SMALL_OF[name].get("head", {}))
# Those that can have an IoU branch and an auxiliary head.
BRANCHED_DETECTORS = tuple(name for name in SECTIONS if "auxiliary" in SECTIONS[name].model_fields)
# Those whose assigner and regression are a choice.
DENSE_DETECTORS = tuple(name for name in SECTIONS if "regression" in SECTIONS[name].model_fields)
