"""Detectors of MMDetection in the names of its versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detcli.errors import CheckpointError
from detcli.weights import convert_mmdetection, read_weights, recognise_mmdetection
from tests.models.specs import ATSS_MM, FCOS_MM, FCOS_MM_CENTER, RETINANET_MM, detector
from tests.weights.states import SMALLER, mmdetection_state, random_detector

pytestmark = pytest.mark.slow

CASES = [
    ("retinanet", RETINANET_MM),
    ("retinanet", {"neck": {"min_level": 2, "max_level": 6}}),
    ("atss", ATSS_MM),
    ("fcos", {**FCOS_MM, "backbone": {}}),
    ("fcos", {**FCOS_MM_CENTER, "backbone": {}}),
]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_mmdetection_round_trip(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    source = random_detector(name, changes)
    file = tmp_path / "published.pth"
    content = {"meta": {"CLASSES": tuple("abcdef")}, "state_dict": mmdetection_state(name, source)}
    torch.save(content, file)
    weights = read_weights(file)
    facts = recognise_mmdetection(weights, str(file))
    assert (facts.detector, facts.depth, facts.num_classes) == (name, 18, 6)
    assert facts.class_names == tuple("abcdef")
    model = detector(name, changes, SMALLER, num_classes=6)
    report = convert_mmdetection(weights.tensors, model, str(file))
    assert set(report.names) == set(content["state_dict"])
    for key, value in source.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_names_of_version_1(tmp_path: Path) -> None:
    """FCOS was renamed from fcos_* to conv_* in version 2; data parallel left module. in front."""
    source = random_detector("fcos", {})
    state = {
        f"module.{key}".replace(".conv_cls.", ".fcos_cls.")
        .replace(".conv_reg.", ".fcos_reg.")
        .replace(".conv_centerness.", ".fcos_centerness."): value
        for key, value in mmdetection_state("fcos", source).items()
    }
    assert "module.bbox_head.fcos_centerness.bias" in state
    file = tmp_path / "old.pth"
    torch.save({"state_dict": state, "meta": {}}, file)
    weights = read_weights(file)
    assert recognise_mmdetection(weights, "old").detector == "fcos"
    model = detector("fcos", SMALLER, num_classes=6)
    convert_mmdetection(weights.tensors, model)
    assert torch.equal(model.head.centerness.bias, source.head.centerness.bias)


def test_class_names_of_version_3(tmp_path: Path) -> None:
    file = tmp_path / "new.pth"
    meta = {"dataset_meta": {"classes": ["cat", "dog"]}}
    torch.save({"state_dict": {"x": torch.zeros(1)}, "meta": meta}, file)
    assert read_weights(file).class_names == ("cat", "dog")


def test_what_does_not_fit_is_named_and_nothing_is_copied() -> None:
    source = random_detector("atss", {})
    state = mmdetection_state("atss", source)
    state["bbox_head.atss_clss.weight"] = state.pop("bbox_head.atss_cls.weight")
    state["bbox_head.atss_reg.bias"] = torch.zeros(5)
    model = detector("atss", SMALLER, num_classes=6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        convert_mmdetection(state, model, "FILE")
    message = str(caught.value)
    assert message.startswith("FILE does not fit this model: ")
    assert "bbox_head.atss_clss.weight [6, 64, 3, 3] is unexpected" in message
    assert "nearest: head.class_logits.weight [6, 64, 3, 3]" in message
    assert "head.box.bias is [5], expected [4]" in message
    assert "\n" not in message
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
