"""Checkpoints of MMDetection 1.x, 2.x and 3.x: detectors on a ResNet with FPN; and SSD from 2.14
on."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.weights.centernet import MMDETECTION_MARK as CENTERNET_MARK
from detcli.weights.centernet import mmdetection_centernet_key, recognise_mmdetection_centernet
from detcli.weights.deformable_detr import MMDETECTION_MARK as DEFORMABLE_MARK
from detcli.weights.deformable_detr import convert_deformable_detr, deformable_facts
from detcli.weights.detr import MMDETECTION_MARK as DETR_MARK
from detcli.weights.detr import convert_detr, detr_facts
from detcli.weights.files import PublicWeights, another_layout
from detcli.weights.names import (
    ConversionReport,
    SourceFacts,
    apply_rules,
    resnet_depth,
    resnet_key,
)
from detcli.weights.report import copy_renamed, copy_state
from detcli.weights.ssd import MMDETECTION_HEAD, MMDETECTION_MARK, SIDES, ssd_head
from detcli.weights.ssd import MMDETECTION_RULES as SSD_RULES
from detcli.weights.two_stage import MMDETECTION_MARK as TWO_STAGE_MARK
from detcli.weights.two_stage import MMDETECTION_RULES as TWO_STAGE_RULES
from detcli.weights.two_stage import convert_mmdetection_two_stage, recognise_mmdetection_two_stage

# The last convolution of the class branch gives the detector away. FCOS had its own names before
# version 2.
DETECTOR_OF = {
    "bbox_head.retina_cls": "retinanet",
    "bbox_head.atss_cls": "atss",
    "bbox_head.conv_cls": "fcos",
    "bbox_head.fcos_cls": "fcos",
    "bbox_head.vfnet_cls": "vfnet",
}
RULES = (
    *TWO_STAGE_RULES,  # for the neck
    (r"bbox_head\.cls_convs\.(\d+)\.(?:gn|bn)\.", r"head.class_tower.\1.norm."),
    (r"bbox_head\.cls_convs\.", "head.class_tower."),
    (r"bbox_head\.reg_convs\.(\d+)\.(?:gn|bn)\.", r"head.box_tower.\1.norm."),
    (r"bbox_head\.reg_convs\.", "head.box_tower."),
    (r"bbox_head\.(?:retina|atss|conv|fcos)_cls\.", "head.class_logits."),
    (r"bbox_head\.(?:retina|atss|conv|fcos)_reg\.", "head.box."),
    (r"bbox_head\.(?:atss|conv|fcos)_centerness\.", "head.centerness."),
    (r"bbox_head\.conv_loc\.", "head.location."),
    (r"bbox_head\.conv_shape\.", "head.shape."),
    (r"bbox_head\.feature_adaption_cls\.conv_offset\.", "head.class_adaption.offset."),
    (r"bbox_head\.feature_adaption_cls\.conv_adaption\.", "head.class_adaption.conv."),
    (r"bbox_head\.feature_adaption_reg\.conv_offset\.", "head.box_adaption.offset."),
    (r"bbox_head\.feature_adaption_reg\.conv_adaption\.", "head.box_adaption.conv."),
    (r"neck\.adapt_convs\.(\d+)\.bn\.", r"neck.adapt.\1.norm."),
    (r"neck\.adapt_convs\.", "neck.adapt."),
    (r"neck\.extra_downsamples\.(\d+)\.conv\.", r"neck.extra.\1."),
    (r"bbox_head\.vfnet_reg_conv\.(?:gn|bn)\.", "head.first_conv.norm."),
    (r"bbox_head\.vfnet_reg_conv\.", "head.first_conv."),
    (r"bbox_head\.vfnet_reg\.", "head.first_box."),
    (r"bbox_head\.vfnet_reg_refine_dconv\.", "head.box_star."),
    (r"bbox_head\.vfnet_reg_refine\.", "head.box."),
    (r"bbox_head\.vfnet_cls_dconv\.", "head.class_star."),
    (r"bbox_head\.vfnet_cls\.", "head.class_logits."),
)
# NAS-FCOS's cells, in the order in which they are built.
NAS_CELLS = ("c22_1", "c22_2", "c32", "c02", "c42", "c36", "c61")
NAS_CELL = re.compile(r"neck\.fpn\.(\w+)\.((?:input[12]|out)_conv\.(?:conv|bn))\.")
NAS_PARTS = {
    "input1_conv.conv": "first.conv.",
    "input1_conv.bn": "first.norm.",
    "input2_conv.conv": "second.conv.",
    "input2_conv.bn": "second.norm.",
    "out_conv.conv": "conv.",
    "out_conv.bn": "norm.",
}
# Detectors whose class branch has the name of another one's.
VARIANTS = {
    "neck.adapt_convs.0.conv.weight": "nas_fcos",
    "bbox_head.conv_shape.weight": "ga_retinanet",
}
# What tells the published settings of a detector apart.
SETTINGS = {
    ("fcos", "bbox_head.cls_convs.0.conv.bias"): "center",
    ("vfnet", "bbox_head.cls_convs.2.conv.conv_offset.weight"): "mdconv",
}
SCALE = re.compile(r"bbox_head\.(scales|scales_refine)\.(\d+)\.scale")
SCALES = {"scales": "head.level_scales", "scales_refine": "head.refine_scales"}


def recognise_mmdetection(weights: PublicWeights, where: str) -> SourceFacts:
    """What detector these are; CheckpointError when they are not MMDetection's, or not one of
    these."""
    tensors = weights.tensors
    if MMDETECTION_MARK in tensors:
        width, levels = ssd_head(tensors, MMDETECTION_HEAD, where)
        return SourceFacts("ssd", None, width - 1, weights.class_names, SIDES.get(levels))
    if CENTERNET_MARK in tensors:
        return recognise_mmdetection_centernet(weights, where)
    if TWO_STAGE_MARK in tensors:
        return recognise_mmdetection_two_stage(weights, where)
    if DETR_MARK in tensors:
        return detr_facts(weights, "bbox_head.fc_cls.weight", where)
    if DEFORMABLE_MARK in tensors:
        return deformable_facts(weights, where)
    found = [name for name in DETECTOR_OF if f"{name}.weight" in tensors]
    if not found or "backbone.layer3.0.conv1.weight" not in tensors:
        expected = (
            "a detector of MMDetection that is known here (RetinaNet, FCOS, ATSS, VFNet, NAS-FCOS, "
            "GA-RetinaNet, Faster, GA-Faster or Cascade R-CNN on a ResNet or HRNet, SSD, "
            "CenterNet, DETR)"
        )
        raise another_layout(where, expected, tensors)
    logits = f"{found[0]}.weight"
    boxes = logits.replace("_cls.", "_reg.")
    if boxes not in tensors:
        raise CheckpointError(f"{where}: has {logits} but no {boxes}")
    num_anchors = tensors[boxes].shape[0] // 4
    named = DETECTOR_OF[found[0]]
    detector = next((name for mark, name in VARIANTS.items() if mark in tensors), named)
    settings = (
        word for (name, mark), word in SETTINGS.items() if name == detector and mark in tensors
    )
    return SourceFacts(
        detector=detector,
        depth=resnet_depth(tensors, "backbone.", where),
        num_classes=tensors[logits].shape[0] // num_anchors,
        class_names=weights.class_names,
        variant=next(settings, None),
    )


def convert_mmdetection(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy MMDetection's tensors into a detector of the same architecture.

    Raises CheckpointError, with the model unchanged, unless every tensor finds its place.
    """
    if MMDETECTION_MARK in tensors:
        return copy_renamed(tensors, model, where, lambda key: apply_rules(key, SSD_RULES))
    if CENTERNET_MARK in tensors:
        return copy_renamed(tensors, model, where, mmdetection_centernet_key)
    if TWO_STAGE_MARK in tensors:
        return convert_mmdetection_two_stage(tensors, model, where)
    if DETR_MARK in tensors:
        return convert_detr(tensors, model, where)
    if DEFORMABLE_MARK in tensors:
        return convert_deformable_detr(tensors, model, where)
    num_outputs = sum(name.startswith("neck.output.") for name in model.state_dict()) // 2
    names = {name: _rename(name, num_outputs) for name in tensors}
    state = {own: tensors[name] for name, own in names.items() if own not in SCALES.values()}
    for scales in SCALES.values():  # a number per level there, one vector here
        levels = [name for name, own in names.items() if own == scales]
        if levels:
            levels.sort(key=lambda name: int(name.split(".")[2]))
            state[scales] = torch.stack([tensors[name].reshape(()) for name in levels])
    copy_state(model, state, where)
    return ConversionReport(names, ())


def _rename(key: str, num_outputs: int) -> str:
    """The name here; a key that no rule knows keeps its own and is reported later."""
    if key.startswith("backbone."):
        return f"backbone.{resnet_key(key.removeprefix('backbone.'))}"
    if cell := NAS_CELL.match(key):
        index = NAS_CELLS.index(cell[1])
        return f"neck.cells.{index}.{NAS_PARTS[cell[2]]}{key[cell.end() :]}"
    if scale := SCALE.fullmatch(key):
        return SCALES[scale[1]]
    output = re.fullmatch(r"neck\.fpn_convs\.(\d+)\.conv\.(\w+)", key)
    if output is not None:  # one list there: outputs first, then the extra levels
        index = int(output[1])
        if index < num_outputs:
            return f"neck.output.{index}.{output[2]}"
        return f"neck.extra.{index - num_outputs}.{output[2]}"
    return apply_rules(key, RULES)
