"""MMDetection's Faster, GA-Faster and Cascade R-CNN in the names of its versions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from detcli.errors import CheckpointError
from detcli.weights import PublicWeights, convert_mmdetection, recognise_mmdetection
from tests.models.specs import detector

pytestmark = pytest.mark.slow

NUM_CLASSES = 5
RESNET = {"name": "resnet", "depth": 18}
SMALL: dict[str, Any] = {
    "backbone": RESNET,
    "neck": {"name": "fpn", "out_channels": 16},
    "pooler": {"side": 3},
    "head": {"channels": 24},
}
CARAFE = {**SMALL, "neck": {"name": "fpn_carafe", "out_channels": 16}}
PAN = {**SMALL, "neck": {"name": "pan", "out_channels": 16}}
DCN = {**SMALL, "backbone": {**RESNET, "dcn": {"stages": [3]}}}
DCN_V1 = {**SMALL, "backbone": {**RESNET, "dcn": {"version": 1, "stages": [4]}}}
OWN_PARTS = {
    "neck.lateral.": "neck.lateral_convs.{}.conv",
    "neck.output.": "neck.fpn_convs.{}.conv",
    "neck.downsample.": "neck.downsample_convs.{}.conv",
    "neck.bottom_up.": "neck.pafpn_convs.{}.conv",
    "rpn.conv": "rpn_head.rpn_conv",
    "rpn.class_logits": "rpn_head.rpn_cls",
    "rpn.box": "rpn_head.rpn_reg",
}
GUIDED_PARTS = {
    "rpn.conv": "rpn_head.rpn_conv",
    "rpn.location": "rpn_head.conv_loc",
    "rpn.shape": "rpn_head.conv_shape",
    "rpn.adaption.offset": "rpn_head.feature_adaption.conv_offset",
    "rpn.adaption.conv": "rpn_head.feature_adaption.conv_adaption",
    "rpn.class_logits": "rpn_head.conv_cls",
    "rpn.box": "rpn_head.conv_reg",
}


def random_detector(name: str, changes: dict[str, Any]) -> nn.Module:
    model = detector(name, changes, num_classes=NUM_CLASSES)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    return model


def source_name(key: str, roi_head: str, *, guided: bool) -> str:
    """The name there of a part that is not in the backbone, without its last word."""
    parts = key.split(".")
    if guided and parts[0] == "rpn":
        return GUIDED_PARTS[key]
    if parts[0] == "rpn" or f"neck.{parts[1]}." in OWN_PARTS:
        own = key if parts[0] == "rpn" else f"neck.{parts[1]}."
        return OWN_PARTS[own].format(parts[-1])
    if parts[1] == "upsample":
        word = {"compress": "channel_compressor", "encode": "content_encoder"}[parts[3]]
        return f"neck.upsample_modules.{parts[2]}.{word}"
    stage = f"{parts[1]}." if parts[0] == "heads" else ""
    rest = ".".join(parts[2:] if stage else parts[1:])
    for mine, theirs in (("fcs", "shared_fcs"), ("class_logits", "fc_cls"), ("box", "fc_reg")):
        rest = rest.replace(mine, theirs)
    return f"{roi_head}bbox_head.{stage}{rest}"


def mmdetection_state(model: nn.Module, version: int = 3) -> dict[str, Tensor]:
    """The model's tensors in MMDetection's names, which are torchvision's for the backbone; in
    version 1 with background first and boxes for it, too."""
    plain = [key for key in resnet18().state_dict() if not key.startswith("fc.")]
    own = model.backbone.state_dict()
    offsets = [key for key in own if "conv_offset" in key]
    values = [value for key, value in own.items() if key not in offsets]
    state = {f"backbone.{key}": value for key, value in zip(plain, values, strict=True)}
    for key in offsets:
        parts = key.split(".")  # stages.2.0.conv2.conv.conv_offset.weight
        word = "conv2_offset" if version == 1 else "conv2.conv_offset"
        state[f"backbone.layer{int(parts[1]) + 1}.{parts[2]}.{word}.{parts[-1]}"] = own[key]
    roi_head = "" if version == 1 else "roi_head."
    guided = hasattr(model.rpn, "guidance")
    for key, value in model.state_dict().items():
        if key.startswith("backbone."):
            continue
        stem, kind = key.rsplit(".", 1)
        there = value
        if version == 1 and stem.startswith("head") and stem.endswith("class_logits"):
            there = torch.cat([value[-1:], value[:-1]])
        if version == 1 and stem == "head.box":
            there = torch.cat([torch.full_like(value[:4], 9.0), value])
        state[f"{source_name(stem, roi_head, guided=guided)}.{kind}"] = there
    return state


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize(
    ("name", "changes", "variant"),
    [
        ("faster_rcnn", SMALL, None),
        ("faster_rcnn", DCN, "dcnv2"),
        ("faster_rcnn", DCN_V1, "dcn"),
        ("faster_rcnn", CARAFE, "carafe"),
        ("faster_rcnn", PAN, "pafpn"),
        ("cascade_rcnn", SMALL, None),
        ("ga_faster_rcnn", SMALL, None),
    ],
)
def test_round_trip(name: str, changes: dict[str, Any], variant: str | None, version: int) -> None:
    source = random_detector(name, changes)
    state = mmdetection_state(source, version)
    facts = recognise_mmdetection(PublicWeights(state, None), "memory")
    assert (facts.detector, facts.depth, facts.num_classes) == (name, 18, NUM_CLASSES)
    assert facts.variant == variant
    model = detector(name, changes, num_classes=NUM_CLASSES)
    report = convert_mmdetection(state, model)
    assert set(report.names) == set(state)
    old_notes = 0 if version == 3 else 1 if name != "ga_faster_rcnn" else 2  # of its locations
    assert sum("1.x" in note for note in report.notes) == old_notes
    for key, value in source.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_what_has_no_place_is_named() -> None:
    """A mask branch, say, or a head of another depth."""
    state = mmdetection_state(random_detector("faster_rcnn", SMALL))
    state["roi_head.mask_head.convs.0.conv.weight"] = torch.zeros(4, 4, 3, 3)
    model = detector("faster_rcnn", SMALL, num_classes=NUM_CLASSES)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"mask_head\.convs\.0\.conv\.weight .* is unexpected"
    ):
        convert_mmdetection(state, model, "FILE")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_first_stage_alone_is_refused() -> None:
    state = mmdetection_state(random_detector("faster_rcnn", SMALL))
    alone = {key: value for key, value in state.items() if not key.startswith("roi_head.")}
    with pytest.raises(CheckpointError, match=r"FILE: has rpn_head\.rpn_conv\.weight but no fc_c"):
        recognise_mmdetection(PublicWeights(alone, None), "FILE")
