"""The layouts of checkpoints of Faster R-CNN, with guided anchoring too, and of Cascade R-CNN:
MMDetection 1.x, 2.x and 3.x, and torchvision's fasterrcnn_resnet50_fpn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.weights.files import PublicWeights
from detcli.weights.names import (
    TORCHVISION_ON_RESNET,
    ConversionReport,
    Rules,
    SourceFacts,
    apply_rules,
    hrnet_key,
    outputs_of,
    resnet_depth,
    resnet_key,
)
from detcli.weights.report import copy_state

MMDETECTION_MARK = "rpn_head.rpn_conv.weight"
GUIDED_MARK = "rpn_head.conv_shape.weight"
HRNET_MARK = "backbone.transition1.0.0.weight"
TORCHVISION_MARK = "roi_heads.box_head.fc6.weight"
TORCHVISION_LOGITS = "roi_heads.box_predictor.cls_score.weight"
BRANCHES = ("roi_heads.mask_", "roi_heads.keypoint_")  # of torchvision's other two-stage detectors
MMDETECTION_RULES = (
    (r"neck\.lateral_convs\.(\d+)\.conv\.", r"neck.lateral.\1."),
    (r"neck\.fpn_convs\.(\d+)\.conv\.", r"neck.output.\1."),
    (r"neck\.downsample_convs\.(\d+)\.conv\.", r"neck.downsample.\1."),
    (r"neck\.pafpn_convs\.(\d+)\.conv\.", r"neck.bottom_up.\1."),
    (r"neck\.reduction_conv\.conv\.", "neck.reduce."),
    (r"neck\.upsample_modules\.(\d+)\.channel_compressor\.", r"neck.upsample.\1.compress."),
    (r"neck\.upsample_modules\.(\d+)\.content_encoder\.", r"neck.upsample.\1.encode."),
    (r"rpn_head\.rpn_conv\.", "rpn.conv."),
    (r"rpn_head\.(?:rpn|conv)_cls\.", "rpn.class_logits."),
    (r"rpn_head\.(?:rpn|conv)_reg\.", "rpn.box."),
    (r"rpn_head\.conv_loc\.", "rpn.location."),
    (r"rpn_head\.conv_shape\.", "rpn.shape."),
    (r"rpn_head\.feature_adaption\.conv_offset\.", "rpn.adaption.offset."),
    (r"rpn_head\.feature_adaption\.conv_adaption\.", "rpn.adaption.conv."),
)
TORCHVISION_RULES: Rules = (
    *TORCHVISION_ON_RESNET,
    (r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)", r"rpn.conv.\1"),
    (r"rpn\.head\.cls_logits\.", "rpn.class_logits."),
    (r"rpn\.head\.bbox_pred\.", "rpn.box."),
    (r"roi_heads\.box_head\.fc6\.", "head.fcs.0."),
    (r"roi_heads\.box_head\.fc7\.", "head.fcs.1."),
    (r"roi_heads\.box_predictor\.cls_score\.", "head.class_logits."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "head.box."),
)
OFFSETS = re.compile(r"backbone\.layer.+\.conv2(?:_|\.conv_)offset\.bias")
# Without roi_head in front in version 1; a number for each stage of a cascade.
REGION_HEAD = re.compile(
    r"(?:roi_head\.)?bbox_head\.(?:(\d+)\.)?(shared_fcs\.\d+|fc_cls|fc_reg)\.(.+)"
)
REGION_PARTS = {"fc_cls": "class_logits", "fc_reg": "box"}
OLD_NOTE = (
    "MMDetection 1.x: background, output 0 there, is the last one here; its box widths count one "
    "pixel more and its RoIAlign is not half-pixel aligned, so results differ slightly"
)
OLD_GUIDED_NOTE = (
    "MMDetection 1.x: the locations of its guided anchors are object centres; to fine-tune, set "
    "model.rpn.guidance.location_target=center"
)


def recognise_mmdetection_two_stage(weights: PublicWeights, where: str) -> SourceFacts:
    """What detector these are; CheckpointError when there is no second stage, or the backbone is
    none of ours."""
    tensors = weights.tensors
    stages = [match for name in tensors if (match := REGION_HEAD.fullmatch(name))]
    logits = [match[0] for match in stages if match[2] == "fc_cls" and match[3] == "weight"]
    if not logits:
        raise CheckpointError(
            f"{where}: has {MMDETECTION_MARK} but no fc_cls.weight of a second stage; expected a "
            "Faster or Cascade R-CNN"
        )
    variant = None
    if HRNET_MARK in tensors:
        variant = f"hrnet{tensors[HRNET_MARK].shape[0]}"
    elif any(name.startswith("neck.upsample_modules.") for name in tensors):
        variant = "carafe"
    elif any(name.startswith("neck.pafpn_convs.") for name in tensors):
        variant = "pafpn"
    elif offsets := [name for name in tensors if OFFSETS.fullmatch(name)]:
        # x, y and in version 2 a weight for each of nine taps
        variant = "dcnv2" if tensors[offsets[0]].shape[0] == 27 else "dcn"
    return SourceFacts(
        detector=_detector(tensors, stages),
        depth=None if HRNET_MARK in tensors else resnet_depth(tensors, "backbone.", where),
        num_classes=tensors[logits[0]].shape[0] - 1,
        class_names=weights.class_names,
        variant=variant,
    )


def convert_mmdetection_two_stage(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str
) -> ConversionReport:
    """Copy MMDetection's tensors; CheckpointError unless every one finds its place."""
    is_hrnet = HRNET_MARK in tensors
    names = {name: mmdetection_two_stage_key(name, is_hrnet=is_hrnet) for name in tensors}
    state = {own: tensors[name] for name, own in names.items()}
    notes = []
    if any(name.startswith("bbox_head.") for name in tensors):
        notes.append(OLD_NOTE)
        if GUIDED_MARK in tensors:
            notes.append(OLD_GUIDED_NOTE)
        for own, value in state.items():
            if ".class_logits." in own and not own.startswith("rpn."):
                width = value.shape[0]
                state[own] = outputs_of(value, width, [*range(1, width), 0])
                box = own.replace(".class_logits.", ".box.")
                if state[box].shape[0] == 4 * width:
                    state[box] = boxes_of(state[box], range(1, width))
    copy_state(model, state, where)
    return ConversionReport(names, tuple(notes))


def mmdetection_two_stage_key(key: str, *, is_hrnet: bool) -> str:
    """The name here, of a checkpoint with an HRNet or with a ResNet; a key that no rule knows keeps
    its own and is reported later."""
    if key.startswith("backbone."):
        inner = key.removeprefix("backbone.")
        own = hrnet_key(inner) if is_hrnet else resnet_key(inner)
        # of version 1, beside the convolution
        return f"backbone.{own.replace('.conv2_offset.', '.conv2.conv.conv_offset.')}"
    region = REGION_HEAD.fullmatch(key)
    if region is None:
        return apply_rules(key, MMDETECTION_RULES)
    head = "head" if region[1] is None else f"heads.{region[1]}"
    part = REGION_PARTS.get(region[2], region[2].replace("shared_fcs", "fcs"))
    return f"{head}.{part}.{region[3]}"


def is_torchvision_two_stage(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are a Faster R-CNN of torchvision with two layers behind the pooled features,
    and nothing but boxes."""
    return TORCHVISION_MARK in tensors and not any(name.startswith(BRANCHES) for name in tensors)


def boxes_of(value: Tensor, classes: Sequence[int]) -> Tensor:
    """The four rows of each of these classes; value (4 * width, ...)."""
    return value.view(-1, 4, *value.shape[1:])[list(classes)].flatten(0, 1)


def _detector(tensors: Mapping[str, Tensor], parts: Sequence[re.Match[str]]) -> str:
    if any(part[1] for part in parts):  # the number of a stage
        return "cascade_rcnn"
    return "ga_faster_rcnn" if GUIDED_MARK in tensors else "faster_rcnn"
