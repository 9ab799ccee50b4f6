"""Checkpoints of torchvision's retinanet_resnet50_fpn, fcos_resnet50_fpn, ssd300_vgg16 and
fasterrcnn_resnet50_fpn."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detcli.weights.files import PublicWeights, another_layout
from detcli.weights.names import (
    TORCHVISION_ON_RESNET,
    ConversionReport,
    Rules,
    SourceFacts,
    apply_rules,
    outputs_of,
    resnet_depth,
)
from detcli.weights.report import copy_state, keep_eps
from detcli.weights.ssd import SIDES, TORCHVISION_HEAD, TORCHVISION_MARK, ssd_head
from detcli.weights.ssd import TORCHVISION_RULES as SSD_RULES
from detcli.weights.two_stage import TORCHVISION_LOGITS, boxes_of, is_torchvision_two_stage
from detcli.weights.two_stage import TORCHVISION_RULES as TWO_STAGE_RULES

EXPECTED = (
    "torchvision's retinanet_resnet50_fpn, fcos_resnet50_fpn, ssd300_vgg16 or "
    "fasterrcnn_resnet50_fpn"
)
LOGITS = "head.classification_head.cls_logits."
BOXES = "head.regression_head.bbox_reg."
CENTERNESS = "head.regression_head.bbox_ctrness."
COCO_WIDTH = 91  # COCO's category ids run from 1 to 90 with gaps; 0 is background
# Of the norms of torchvision's published RetinaNet and Faster R-CNN, as their loader sets it.
COCO_V1_EPS = 0.0
FRESH_EPS = 1e-5
RULES: Rules = (
    *TORCHVISION_ON_RESNET,
    (r"backbone\.fpn\.extra_blocks\.p6\.", "neck.extra.0."),
    (r"backbone\.fpn\.extra_blocks\.p7\.", "neck.extra.1."),
    (r"head\.classification_head\.cls_logits\.", "head.class_logits."),
    (r"head\.regression_head\.bbox_reg\.", "head.box."),
    (r"head\.regression_head\.bbox_ctrness\.", "head.centerness."),
)
TOWER = re.compile(r"head\.(classification|regression)_head\.conv\.(\d+)\.(?:(\d)\.)?(\w+)")


def recognise_torchvision(weights: PublicWeights, where: str) -> SourceFacts:
    """What detector these are; CheckpointError when they are not torchvision's, or none of the
    four. A head of 91 outputs is COCO's: its 80 real classes are counted."""
    tensors = weights.tensors
    input_px = None
    if TORCHVISION_MARK in tensors:
        detector, (width, levels) = "ssd", ssd_head(tensors, TORCHVISION_HEAD, where)
        count, input_px = width - 1, SIDES.get(levels)
    elif is_torchvision_two_stage(tensors):
        detector, width = "faster_rcnn", len(tensors[TORCHVISION_LOGITS])
        count = width - 1
    else:
        needed = (f"{LOGITS}weight", f"{BOXES}weight", "backbone.body.layer3.0.conv1.weight")
        if any(name not in tensors for name in needed):
            raise another_layout(where, EXPECTED, tensors)
        detector = "fcos" if f"{CENTERNESS}weight" in tensors else "retinanet"
        width = count = _head_width(tensors)
    depth = None if detector == "ssd" else resnet_depth(tensors, "backbone.body.", where)
    return SourceFacts(detector, depth, *known_classes(weights, width, count), input_px)


def convert_torchvision(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy torchvision's tensors into a detector of the same architecture.

    Of a head with 91 outputs only the 80 real classes of COCO are kept. FCOS's scales per level,
    which torchvision does not have, become 1. Raises CheckpointError, with the model unchanged,
    unless every tensor finds its place.
    """
    if TORCHVISION_MARK in tensors or is_torchvision_two_stage(tensors):
        return _convert_with_background(tensors, model, where)
    notes = []
    kind = "fcos" if f"{CENTERNESS}weight" in tensors else "retinanet"
    names = {name: _rename(name, kind) for name in tensors}
    state = {own: tensors[name] for name, own in names.items()}
    width = _head_width(tensors)
    if width == COCO_WIDTH:
        for name in ("head.class_logits.weight", "head.class_logits.bias"):
            state[name] = outputs_of(state[name], width, coco_ids())
        notes.append("class head: the 80 classes of COCO were taken out of 91 outputs")
    else:
        notes.append(f"class head: all {width} outputs are kept; torchvision's 0 is background")
    own = model.state_dict()
    if "head.level_scales" in own:
        state["head.level_scales"] = torch.ones_like(own["head.level_scales"])
    published = _keep_norms(state, model, tensors, where, is_coco_v1=kind == "retinanet")
    copy_state(model, state, where)
    return ConversionReport(names, (*notes, *published))


def _keep_norms(
    state: dict[str, Tensor],
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    is_coco_v1: bool,
) -> tuple[str, ...]:
    """Complete `state` with the counters that frozen norms there do not have, and let its norms
    compute the same here; what was noteworthy. is_coco_v1: the published ones have an eps of 0."""
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, value)
    # Fresh models count batches; the published ones have frozen norms, which do not.
    published = is_coco_v1 and not any(name.endswith("num_batches_tracked") for name in tensors)
    keep_eps(state, model, COCO_V1_EPS if published else FRESH_EPS, where)
    return ("norms: eps 0, as torchvision sets it for its published weights",) if published else ()


def _convert_with_background(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str
) -> ConversionReport:
    """As `convert_torchvision`, of SSD and Faster R-CNN; background, which is output 0 there,
    becomes the last one."""
    is_ssd = TORCHVISION_MARK in tensors
    rules = SSD_RULES if is_ssd else TWO_STAGE_RULES
    names = {name: apply_rules(name, rules) for name in tensors}
    state = {own: tensors[name] for name, own in names.items()}
    width, _ = (
        ssd_head(tensors, TORCHVISION_HEAD, where) if is_ssd else tensors[TORCHVISION_LOGITS].shape
    )
    classes = coco_ids() if width == COCO_WIDTH else range(1, width)
    for own, value in state.items():
        if own.startswith("head.class_logits."):
            state[own] = outputs_of(value, width, [*classes, 0])
        elif own.startswith("head.box.") and not is_ssd:
            state[own] = boxes_of(value, classes)
    note = "class head: background, output 0 of torchvision, is the last one here"
    if width == COCO_WIDTH:
        note += (
            "; the outputs of ids that COCO does not use are left out, with their small probability"
        )
    norms = () if is_ssd else _keep_norms(state, model, tensors, where, is_coco_v1=True)
    copy_state(model, state, where)
    return ConversionReport(names, (note, *norms))


def known_classes(
    weights: PublicWeights, width: int, count: int
) -> tuple[int, tuple[str, ...] | None]:
    """Number and names of the classes of a head of `width` outputs: COCO's 80 where these are the
    91 of its ids, else `count`, and the names that stand in the file."""
    return (len(coco_ids()), coco_names()) if width == COCO_WIDTH else (count, weights.class_names)


def coco_ids() -> list[int]:
    """The 80 category ids of COCO among torchvision's 91 outputs."""
    return [index for index, name in enumerate(_categories()) if name not in _UNUSED]


def coco_names() -> tuple[str, ...]:
    """The names of those 80."""
    return tuple(name for name in _categories() if name not in _UNUSED)


_UNUSED = ("__background__", "N/A")


def _categories() -> list[str]:
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    names: list[str] = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return names


def _head_width(tensors: Mapping[str, Tensor]) -> int:
    num_anchors = tensors[f"{BOXES}weight"].shape[0] // 4
    return tensors[f"{LOGITS}weight"].shape[0] // num_anchors


def _rename(key: str, kind: str) -> str:
    """The name here; a key that no rule knows keeps its own and is reported later."""
    tower = TOWER.fullmatch(key)
    if tower is None:
        return apply_rules(key, RULES)
    branch = "class_tower" if tower[1] == "classification" else "box_tower"
    index, inner = int(tower[2]), tower[3]
    if inner is not None:  # since 0.13: one block per convolution
        part = "conv" if inner == "0" else "norm"
    elif kind == "fcos":  # a flat list: convolution, norm, ReLU
        index, part = index // 3, ("conv", "norm", "relu")[index % 3]
    else:  # before 0.13: convolution, ReLU
        index, part = index // 2, "conv"
    return f"head.{branch}.{index}.{part}.{tower[4]}"
