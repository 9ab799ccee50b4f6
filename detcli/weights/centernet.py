"""The layouts of CenterNet's checkpoints: MMDetection, and xingyizhou/CenterNet with a ResNet and
deformable convolutions or with DLA-34."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from detcli.weights.files import PublicWeights, another_layout
from detcli.weights.names import (
    RESNET_BACKBONE,
    ConversionReport,
    Rules,
    SourceFacts,
    apply_rules,
    resnet_depth,
    resnet_key,
    rewritten,
)
from detcli.weights.report import copy_renamed

MMDETECTION_MARK = "bbox_head.heatmap_head.2.weight"
AUTHORS_MARK = "hm.2.weight"
DLA_MARK = "dla_up.ida_0.proj_1.conv.weight"
RESNET_MARK = "deconv_layers.0.conv_offset_mask.weight"
OFFSETS = "neck.deconv_layers.0.conv.conv_offset.weight"
MMDETECTION_RULES: Rules = (
    RESNET_BACKBONE,
    (
        r"neck\.deconv_layers\.(\d+)\.",
        lambda found: f"neck.{('reduce', 'enlarge')[int(found[1]) % 2]}.{int(found[1]) // 2}.",
    ),
    (r"bbox_head\.heatmap_head\.", "head.class_logits."),
    (r"bbox_head\.wh_head\.", "head.size."),
    (r"bbox_head\.offset_head\.", "head.offset."),
)
AUTHORS_RULES = (
    (r"hm\.", "head.class_logits."),
    (r"wh\.", "head.size."),
    (r"reg\.", "head.offset."),
    (r"dla_up\.ida_(\d+)\.", r"neck.steps.\1."),
    (r"ida_up\.", "neck.last."),
)
# All one after the other.
DLA_RULES: Rules = (
    (r"^base_layer\.0\.", "stem.conv."),
    (r"^base_layer\.1\.", "stem.norm."),
    (r"^level([01])\.0\.", r"convs.\1.conv."),
    (r"^level([01])\.1\.", r"convs.\1.norm."),
    (r"^level(\d)\.", lambda found: f"trees.{int(found[1]) - 2}."),
    (r"tree1\.", "first."),
    (r"tree2\.", "second."),
    (r"\.conv(\d)\.", r".conv\1.conv."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.project\.0\.", ".project.conv."),
    (r"\.project\.1\.", ".project.norm."),
    (r"\.root\.bn\.", ".root.norm."),
)
AUTHORS_NECK = re.compile(r"deconv_layers\.(\d+)\.(.+)")
# Six entries of the authors' list make a step: DCN, norm, ReLU, transposed convolution, norm, ReLU.
AUTHORS_STEP = {
    0: "reduce.{}.conv",
    1: "reduce.{}.norm",
    3: "enlarge.{}.conv",
    4: "enlarge.{}.norm",
}
AGGREGATE = re.compile(r"(neck\.\S+?)\.?(proj|up|node)_(\d+)\.(.+)")
AGGREGATE_PARTS = {"proj": "project", "up": "enlarge", "node": "node"}
# These trees compute a projection that nothing reads.
UNUSED_IN_DLA = re.compile(r"(?:base\.)?level[34]\.project\.")


def recognise_mmdetection_centernet(weights: PublicWeights, where: str) -> SourceFacts:
    """What MMDetection's CenterNet this is; CheckpointError if its backbone is no ResNet."""
    return SourceFacts(
        detector="centernet",
        depth=resnet_depth(weights.tensors, "backbone.", where),
        num_classes=len(weights.tensors[MMDETECTION_MARK]),
        class_names=weights.class_names,
        variant="dcnv2" if OFFSETS in weights.tensors else None,
    )


def mmdetection_centernet_key(key: str) -> str:
    """The name here of a key of MMDetection's CenterNet."""
    own = apply_rules(key, MMDETECTION_RULES)
    return own.replace(".bn.", ".norm.") if own.startswith("neck.") else own


def recognise_centernet(weights: PublicWeights, where: str) -> SourceFacts:
    """What detector of xingyizhou/CenterNet these are; CheckpointError when they are not one with
    resdcn or dla_34."""
    tensors = weights.tensors
    is_dla = DLA_MARK in tensors
    if AUTHORS_MARK not in tensors or not (is_dla or RESNET_MARK in tensors):
        raise another_layout(where, "xingyizhou/CenterNet's ctdet with resdcn or dla_34", tensors)
    return SourceFacts(
        detector="centernet",
        depth=None if is_dla else resnet_depth(tensors, "", where),
        num_classes=len(tensors[AUTHORS_MARK]),
        class_names=weights.class_names,
        variant="dla34" if is_dla else None,
    )


def convert_centernet(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy tensors of xingyizhou/CenterNet into a detector of the same architecture.

    Raises CheckpointError, with the model unchanged, unless every tensor finds its place; two
    projections of DLA-34 that its code computes without using them are left out.
    """
    unused = [name for name in tensors if UNUSED_IN_DLA.match(name)]
    used = {name: value for name, value in tensors.items() if name not in unused}
    report = copy_renamed(used, model, where, _authors_key)
    if not unused:
        return report
    note = f"left out: {len(unused)} tensors that nothing reads ({unused[0]}, ...)"
    return ConversionReport(report.names, (note,))


def dla_key(key: str) -> str:
    """The name here of a key of DLA-34, as in the authors' ImageNet weights."""
    return rewritten(key, DLA_RULES)


def is_unused_in_dla(key: str) -> bool:
    """Whether this tensor of a DLA-34 belongs to a projection that nothing reads."""
    return UNUSED_IN_DLA.match(key) is not None


def _authors_key(key: str) -> str:
    """The name here; a key that no rule knows keeps its own and is reported later."""
    if key.startswith("base."):
        return f"backbone.{dla_key(key.removeprefix('base.'))}"
    if key.startswith(("conv1.", "bn1.", "layer")):
        return f"backbone.{resnet_key(key)}"
    match = AUTHORS_NECK.fullmatch(key)
    if match is not None:
        step, place = divmod(int(match[1]), 6)
        if place not in AUTHORS_STEP:
            return key
        own = f"neck.{AUTHORS_STEP[place].format(step)}.{match[2]}"
    else:
        own = apply_rules(key, AUTHORS_RULES)
        match = AGGREGATE.fullmatch(own)
        if match is not None:
            part, index = AGGREGATE_PARTS[match[2]], int(match[3]) - 1
            own = f"{match[1]}.{part}.{index}.{match[4].replace('actf.0.', 'norm.')}"
    return own.replace(".conv_offset_mask.", ".conv_offset.")
