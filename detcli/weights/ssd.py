"""The layouts of SSD's checkpoints: MMDetection from 2.14 on, and torchvision."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from detcli.errors import CheckpointError
from detcli.weights.names import Rules, vgg_key

SIDES = {6: 300, 7: 512}  # number of levels -> input side that they were made for
MMDETECTION_MARK = "neck.l2_norm.weight"
TORCHVISION_MARK = "backbone.scale_weight"
MMDETECTION_HEAD = ("bbox_head.cls_convs.{}.0.weight", "bbox_head.reg_convs.{}.0.weight")
TORCHVISION_HEAD = (
    "head.classification_head.module_list.{}.weight",
    "head.regression_head.module_list.{}.weight",
)
BACKBONE = (r"backbone\.((?:features\.)?\d.+)", lambda found: f"backbone.{vgg_key(found[1])}")
MMDETECTION_RULES: Rules = (
    BACKBONE,
    (r"neck\.l2_norm\.weight", "neck.l2_scale"),
    (r"neck\.extra_layers\.(\d+)\.0\.conv\.", r"neck.squeeze.\1."),
    (r"neck\.extra_layers\.(\d+)\.1\.conv\.", r"neck.extra.\1."),
    (r"bbox_head\.cls_convs\.(\d+)\.0\.", r"head.class_logits.\1."),
    (r"bbox_head\.reg_convs\.(\d+)\.0\.", r"head.box.\1."),
)
# torchvision splits VGG-16's layers before the fourth pool, which is the first of the second part.
TORCHVISION_SPLIT = 23
TORCHVISION_RULES: Rules = (
    BACKBONE,
    (r"backbone\.scale_weight", "neck.l2_scale"),
    (r"backbone\.extra\.0\.7\.1\.", "backbone.fc6."),
    (r"backbone\.extra\.0\.7\.3\.", "backbone.fc7."),
    (
        r"backbone\.extra\.0\.(\d+)\.(weight|bias)",
        lambda found: f"backbone.{vgg_key(f'{TORCHVISION_SPLIT + int(found[1])}.{found[2]}')}",
    ),
    (r"backbone\.extra\.(\d+)\.0\.", lambda found: f"neck.squeeze.{int(found[1]) - 1}."),
    (r"backbone\.extra\.(\d+)\.\d+\.", lambda found: f"neck.extra.{int(found[1]) - 1}."),
    (r"head\.classification_head\.module_list\.", "head.class_logits."),
    (r"head\.regression_head\.module_list\.", "head.box."),
)


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
