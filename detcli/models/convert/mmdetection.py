"""Checkpoints of MMDetection 1.x, 2.x and 3.x: RetinaNet, FCOS and ATSS on a ResNet with FPN; and
SSD from 2.14 on."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.models.convert.files import PublicWeights, looks_like
from detcli.models.convert.names import (
    ConversionReport,
    SourceFacts,
    apply_rules,
    resnet_depth,
    resnet_key,
)
from detcli.models.convert.report import copy_state
from detcli.models.convert.ssd import (
    MMDETECTION_HEAD,
    MMDETECTION_MARK,
    SIDES,
    mmdetection_ssd_key,
    ssd_head,
)

# The last convolution of the class branch gives the detector away. FCOS had its own names before
# version 2.
DETECTOR_OF = {
    "bbox_head.retina_cls": "retinanet",
    "bbox_head.atss_cls": "atss",
    "bbox_head.conv_cls": "fcos",
    "bbox_head.fcos_cls": "fcos",
}
RULES = (
    (r"neck\.lateral_convs\.(\d+)\.conv\.", r"neck.lateral.\1."),
    (r"bbox_head\.cls_convs\.(\d+)\.(?:gn|bn)\.", r"head.class_tower.\1.norm."),
    (r"bbox_head\.cls_convs\.", "head.class_tower."),
    (r"bbox_head\.reg_convs\.(\d+)\.(?:gn|bn)\.", r"head.box_tower.\1.norm."),
    (r"bbox_head\.reg_convs\.", "head.box_tower."),
    (r"bbox_head\.(?:retina|atss|conv|fcos)_cls\.", "head.class_logits."),
    (r"bbox_head\.(?:retina|atss|conv|fcos)_reg\.", "head.box."),
    (r"bbox_head\.(?:atss|conv|fcos)_centerness\.", "head.centerness."),
)
SCALE = re.compile(r"bbox_head\.scales\.(\d+)\.scale")
LEVEL_SCALES = "head.level_scales"


def recognise_mmdetection(weights: PublicWeights, where: str) -> SourceFacts:
    """What detector these are; CheckpointError when they are not MMDetection's, or not one of
    the four."""
    tensors = weights.tensors
    if MMDETECTION_MARK in tensors:
        width, levels = ssd_head(tensors, MMDETECTION_HEAD, where)
        return SourceFacts("ssd", None, width - 1, weights.class_names, SIDES.get(levels))
    found = [name for name in DETECTOR_OF if f"{name}.weight" in tensors]
    if not found or "backbone.layer3.0.conv1.weight" not in tensors:
        raise CheckpointError(
            f"{where}: expected MMDetection's RetinaNet, FCOS or ATSS on a ResNet, or SSD, but "
            f"this looks like {looks_like(tensors)}"
        )
    logits = f"{found[0]}.weight"
    boxes = logits.replace("_cls.", "_reg.")
    if boxes not in tensors:
        raise CheckpointError(f"{where}: has {logits} but no {boxes}")
    num_anchors = tensors[boxes].shape[0] // 4
    return SourceFacts(
        detector=DETECTOR_OF[found[0]],
        depth=resnet_depth(tensors, "backbone.", where),
        num_classes=tensors[logits].shape[0] // num_anchors,
        class_names=weights.class_names,
    )


def convert_mmdetection(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy MMDetection's tensors into a detector of the same architecture.

    Raises CheckpointError, with the model unchanged, unless every tensor finds its place.
    """
    if MMDETECTION_MARK in tensors:
        names = {name: mmdetection_ssd_key(name) for name in tensors}
        copy_state(model, {own: tensors[name] for name, own in names.items()}, where)
        return ConversionReport(names, ())
    num_outputs = sum(name.startswith("neck.output.") for name in model.state_dict()) // 2
    names = {name: _rename(name, num_outputs) for name in tensors}
    state = {own: tensors[name] for name, own in names.items() if own != LEVEL_SCALES}
    scales = sorted((int(match[1]), name) for name in names if (match := SCALE.fullmatch(name)))
    if scales:
        state[LEVEL_SCALES] = torch.stack([tensors[name].reshape(()) for _, name in scales])
    copy_state(model, state, where)
    return ConversionReport(names, ())


def _rename(key: str, num_outputs: int) -> str:
    """The name here; a key that no rule knows keeps its own and is reported later."""
    if key.startswith("backbone."):
        return f"backbone.{resnet_key(key.removeprefix('backbone.'))}"
    if SCALE.fullmatch(key):
        return LEVEL_SCALES
    output = re.fullmatch(r"neck\.fpn_convs\.(\d+)\.conv\.(\w+)", key)
    if output is not None:  # one list there: outputs first, then the extra levels
        index = int(output[1])
        if index < num_outputs:
            return f"neck.output.{index}.{output[2]}"
        return f"neck.extra.{index - num_outputs}.{output[2]}"
    return apply_rules(key, RULES)
