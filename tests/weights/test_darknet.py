"""YOLOv4 from Darknet's own files, and from the names of Tianxiaomo's port."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from detcli.errors import CheckpointError
from detcli.models.backbones.cspdarknet import CSPDarknet, build_cspdarknet
from detcli.recipe.sections.models.yolov4 import CspDarknet
from detcli.weights import (
    PublicWeights,
    convert_darknet,
    convert_tianxiaomo,
    read_darknet,
    recognise_darknet,
    recognise_tianxiaomo,
)
from detcli.weights.darknet import backbone_state, layer_names
from tests.models.specs import SMALL_OF, detector


def small() -> nn.Module:
    return detector("yolov4", SMALL_OF["yolov4"], num_classes=3)


def write_darknet(path: Path, model: nn.Module, *, version: tuple[int, int] = (0, 2)) -> None:
    """A .weights file as Darknet writes it."""
    state = model.state_dict()
    with path.open("wb") as file:
        file.write(struct.pack("<3i", *version, 5))
        file.write(struct.pack("<q" if version[0] * 10 + version[1] >= 2 else "<i", 32032000))
        for layer, inner in every_convolution(model):
            if f"{layer}.norm.weight" in state:
                names = ["norm.bias", "norm.weight", "norm.running_mean", "norm.running_var"]
                names = [*(f"{layer}.{name}" for name in names), f"{layer}.conv.weight"]
            else:
                names = [f"{layer}.bias", f"{layer}.weight"]
            for name in names:
                file.write(state[name].numpy().astype("<f4").tobytes())
            assert isinstance(inner, nn.Conv2d)


def every_convolution(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """In the order of yolov4.cfg, written down here a second time."""
    b, n, h = "backbone", "neck", "head"
    names = [f"{b}.stem"]
    for stage, blocks in enumerate((1, 2, 8, 8, 4)):
        names += [f"{b}.stages.{stage}.{part}" for part in ("down", "skip", "enter")]
        for block in range(blocks):
            at = f"{b}.stages.{stage}.blocks.{block}"
            names += [f"{at}.reduce", f"{at}.expand"]
        names += [f"{b}.stages.{stage}.leave", f"{b}.stages.{stage}.merge"]
    names += [f"{n}.before.{i}" for i in range(3)] + [f"{n}.after.{i}" for i in range(3)]
    for step in range(2):
        names += [f"{n}.reduce.{step}", f"{n}.lateral.{step}"]
        names += [f"{n}.blocks.{step}.{i}" for i in range(5)]
    names += [f"{h}.hidden.0", f"{h}.prediction.0"]
    for step in range(2):
        names += [f"{h}.down.{step}"] + [f"{h}.blocks.{step}.{i}" for i in range(5)]
        names += [f"{h}.hidden.{step + 1}", f"{h}.prediction.{step + 1}"]
    parts = [(name, model.get_submodule(name)) for name in names]
    return [(name, part if isinstance(part, nn.Conv2d) else part.conv) for name, part in parts]


def shaken(model: nn.Module) -> nn.Module:
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 0.9)
    return model


@pytest.mark.parametrize("version", [(0, 2), (0, 1)])
def test_a_darknet_file_round_trip(version: tuple[int, int], tmp_path: Path) -> None:
    source, path = shaken(small()), tmp_path / "yolov4.weights"
    write_darknet(path, source, version=version)
    weights = read_darknet(path)
    model = small()
    report = convert_darknet(weights.tensors, model, str(path))
    own = model.state_dict()
    assert set(report.names) == set(own)
    for name, value in source.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(own[name], value), name


def test_the_first_layers_of_a_darknet_file_are_a_backbone(tmp_path: Path) -> None:
    with torch.device("meta"):
        whole = build_cspdarknet(CspDarknet(), norm="bn")
    assert sum(p.numel() for p in whole.parameters()) == 26_617_184
    source, path = shaken(small()), tmp_path / "yolov4.conv.137"
    write_darknet(path, source)
    backbone = CSPDarknet(width=0.125, norm="bn")
    backbone.load_state_dict(backbone_state(path, backbone))
    theirs = source.backbone.state_dict()
    for name, value in backbone.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, theirs[name]), name
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(CheckpointError, match=r"ends at stages\.0"):
        backbone_state(path, backbone)


def test_how_many_numbers_a_file_has() -> None:
    with torch.device("meta"):
        model = detector("yolov4", num_classes=80)
    numbers = sum(
        value.numel()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )
    assert numbers == 64_429_405  # as published
    for classes, count in ((80, numbers), (1, numbers - 79 * 3 * 1795)):
        flat = torch.empty(count, device="meta")
        assert recognise_darknet(PublicWeights({"darknet": flat}, None), "").num_classes == classes
    with pytest.raises(CheckpointError, match="64429405 numbers for 80 classes"):
        recognise_darknet(PublicWeights({"darknet": torch.zeros(100)}, None), "FILE")


def test_files_that_are_none_of_darknets(tmp_path: Path) -> None:
    path = tmp_path / "x.weights"
    for content, words in (
        (b"", "has no header"),
        (b"hello, I am a text and no weights", "has no header"),
        (struct.pack("<3iq", 0, 2, 5, 0) + b"abc", "damaged"),
        (struct.pack("<3iq", 0, 2, 5, 0), "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            read_darknet(path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_darknet(tmp_path / "none.weights")
    model = small()
    write_darknet(path, shaken(small()))
    with path.open("ab") as file:
        file.write(b"1234")
    with pytest.raises(CheckpointError, match="1 numbers are left over"):
        convert_darknet(read_darknet(path).tensors, model)


def test_names_of_tianxiaomo() -> None:
    assert len(layer_names()) == len({own for _, own in layer_names()}) == 110
    state = {"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="looks like a ResNet without a detector"):
        recognise_tianxiaomo(PublicWeights(state, None), "FILE")
    state = {"down1.conv1.conv.0.weight": torch.zeros(1)}
    state["head.conv18.conv.0.weight"] = torch.zeros(255, 1024, 1, 1)
    facts = recognise_tianxiaomo(PublicWeights(state, None), "FILE")
    assert (facts.detector, facts.num_classes) == ("yolov4", 80)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        convert_tianxiaomo({**state, "neek.conv99.conv.0.weight": torch.zeros(1)}, small())
