"""The layouts of SSD's checkpoints: MMDetection from 2.14 on, and torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from detcli.errors import CheckpointError
from detcli.weights.names import apply_rules, vgg_key

SIDES = {6: 300, 7: 512}  # number of levels -> input side that they were made for
MMDETECTION_MARK = "neck.l2_norm.weight"
TORCHVISION_MARK = "backbone.scale_weight"
MMDETECTION_HEAD = ("bbox_head.cls_convs.{}.0.weight", "bbox_head.reg_convs.{}.0.weight")
TORCHVISION_HEAD = (
    "head.classification_head.module_list.{}.weight",
    "head.regression_head.module_list.{}.weight",
)
MMDETECTION_RULES = (
    (r"neck\.l2_norm\.weight", "neck.l2_scale"),
    (r"neck\.extra_layers\.(\d+)\.0\.conv\.", r"neck.squeeze.\1."),
    (r"neck\.extra_layers\.(\d+)\.1\.conv\.", r"neck.extra.\1."),
    (r"bbox_head\.cls_convs\.(\d+)\.0\.", r"head.class_logits.\1."),
    (r"bbox_head\.reg_convs\.(\d+)\.0\.", r"head.box.\1."),
)
TORCHVISION_RULES = (
    (r"backbone\.scale_weight", "neck.l2_scale"),
    (r"backbone\.extra\.0\.7\.1\.", "backbone.fc6."),
    (r"backbone\.extra\.0\.7\.3\.", "backbone.fc7."),
    (r"head\.classification_head\.module_list\.", "head.class_logits."),
    (r"head\.regression_head\.module_list\.", "head.box."),
)
# torchvision splits VGG-16's layers before the fourth pool, which is the first of the second part.
TORCHVISION_SPLIT = 23
TORCHVISION_EXTRA = re.compile(r"backbone\.extra\.(\d+)\.(\d+)\.(weight|bias)")


def mmdetection_ssd_key(key: str) -> str:
    """The name here of a key of MMDetection's SSD."""
    if key.startswith("backbone."):
        return f"backbone.{vgg_key(key.removeprefix('backbone.'))}"
    return apply_rules(key, MMDETECTION_RULES)


def torchvision_ssd_key(key: str) -> str:
    """The name here of a key of torchvision's SSD."""
    if key.startswith("backbone.features."):
        return f"backbone.{vgg_key(key.removeprefix('backbone.'))}"
    extra = TORCHVISION_EXTRA.fullmatch(key)
    if extra is None:
        return apply_rules(key, TORCHVISION_RULES)
    level, layer, kind = int(extra[1]), int(extra[2]), extra[3]
    if level == 0:
        return f"backbone.{vgg_key(f'{TORCHVISION_SPLIT + layer}.{kind}')}"
    return f"neck.{'squeeze' if layer == 0 else 'extra'}.{level - 1}.{kind}"


def ssd_head(tensors: Mapping[str, Tensor], names: tuple[str, str], where: str) -> tuple[int, int]:
    """Outputs per anchor, background included, and number of levels of a head with these names;
    CheckpointError when its halves do not go together."""
    levels = 0
    while names[0].format(levels) in tensors:
        levels += 1
    width = 0
    for level in range(levels):
        logits, boxes = (name.format(level) for name in names)
        if boxes not in tensors:
            raise CheckpointError(f"{where}: has {logits} but no {boxes}")
        width = tensors[logits].shape[0] // (tensors[boxes].shape[0] // 4)
    if not levels:
        raise CheckpointError(f"{where}: looks like an SSD, but has no {names[0].format(0)}")
    return width, levels
