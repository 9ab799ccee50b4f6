"""Detectors with random weights in the names of MMDetection."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tests.models.specs import detector

SMALLER = {"backbone": {"depth": 18, "style": "pytorch"}, "neck": {"out_channels": 64}}


def mmdetection_state(name: str, model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors under MMDetection's names, written down here a second time."""
    logits = {"retinanet": "retina", "atss": "atss", "fcos": "conv"}[name]
    num_outputs = len(model.neck.output)
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "backbone" and parts[1] == "stem":
            new = ["backbone", "conv1" if parts[2] == "conv" else "bn1", *parts[3:]]
        elif parts[0] == "backbone":
            block = ["backbone", f"layer{int(parts[2]) + 1}", parts[3]]
            if parts[4] == "shortcut":
                new = [*block, "downsample", "0" if parts[5] == "conv" else "1", *parts[6:]]
            else:
                word = parts[4] if parts[5] == "conv" else parts[4].replace("conv", "bn")
                new = [*block, word, *parts[6:]]
        elif parts[1] in ("lateral", "output", "extra"):
            index = int(parts[2]) + (num_outputs if parts[1] == "extra" else 0)
            where = "lateral_convs" if parts[1] == "lateral" else "fpn_convs"
            new = ["neck", where, str(index), "conv", parts[3]]
        elif parts[1].endswith("_tower"):
            where = "cls_convs" if parts[1] == "class_tower" else "reg_convs"
            kind = "conv" if parts[3] == "conv" else "gn"
            new = ["bbox_head", where, parts[2], kind, parts[4]]
        elif parts[1] == "level_scales":
            for level, scale in enumerate(value):
                state[f"bbox_head.scales.{level}.scale"] = scale
            continue
        else:
            suffix = {"class_logits": "cls", "box": "reg", "centerness": "centerness"}[parts[1]]
            new = ["bbox_head", f"{logits}_{suffix}", parts[2]]
        state[".".join(new)] = value
    return state


def random_detector(name: str, changes: dict[str, Any]) -> nn.Module:
    model = detector(name, changes, SMALLER, num_classes=6)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    return model
