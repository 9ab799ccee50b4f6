"""Public checkpoints: files that are none, old names, and tensors that do not fit."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, get_model

from detcli.errors import CheckpointError
from detcli.weights import (
    PublicWeights,
    convert_mmdetection,
    convert_torchvision,
    read_weights,
    recognise_mmdetection,
    recognise_torchvision,
)
from tests.models.specs import (
    ATSS_MM,
    FCOS_MM,
    FCOS_MM_CENTER,
    FCOS_TORCHVISION,
    RETINANET_MM,
    RETINANET_TORCHVISION,
    detector,
)

SMALLER = {"backbone": {"depth": 18, "style": "pytorch"}, "neck": {"out_channels": 64}}


def mmdetection_state(name: str, model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors under MMDetection's names, written down here a second time."""
    logits = {"retinanet": "retina", "atss": "atss", "fcos": "conv"}[name]
    num_outputs = len(model.neck.output)
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "backbone" and parts[1] == "stem":
            new = ["backbone", "conv1" if parts[2] == "conv" else "bn1", *parts[3:]]
        elif parts[0] == "backbone":
            block = ["backbone", f"layer{int(parts[2]) + 1}", parts[3]]
            if parts[4] == "shortcut":
                new = [*block, "downsample", "0" if parts[5] == "conv" else "1", *parts[6:]]
            else:
                word = parts[4] if parts[5] == "conv" else parts[4].replace("conv", "bn")
                new = [*block, word, *parts[6:]]
        elif parts[1] in ("lateral", "output", "extra"):
            index = int(parts[2]) + (num_outputs if parts[1] == "extra" else 0)
            where = "lateral_convs" if parts[1] == "lateral" else "fpn_convs"
            new = ["neck", where, str(index), "conv", parts[3]]
        elif parts[1].endswith("_tower"):
            where = "cls_convs" if parts[1] == "class_tower" else "reg_convs"
            kind = "conv" if parts[3] == "conv" else "gn"
            new = ["bbox_head", where, parts[2], kind, parts[4]]
        elif parts[1] == "level_scales":
            for level, scale in enumerate(value):
                state[f"bbox_head.scales.{level}.scale"] = scale
            continue
        else:
            suffix = {"class_logits": "cls", "box": "reg", "centerness": "centerness"}[parts[1]]
            new = ["bbox_head", f"{logits}_{suffix}", parts[2]]
        state[".".join(new)] = value
    return state


def random_detector(name: str, changes: dict[str, Any]) -> nn.Module:
    model = detector(name, changes, SMALLER, num_classes=6)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    return model


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


def test_published_torchvision_layout_of_old_versions() -> None:
    """Before 0.13 towers and laterals had no inner index, and frozen norms do not count."""
    peer = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    inner = {f"_head.conv.{index}.0.": f"_head.conv.{2 * index}." for index in (3, 2, 1, 0)}
    for name in ("inner_blocks", "layer_blocks"):
        inner.update({f"{name}.{index}.0.": f"{name}.{index}." for index in range(3)})
    state = {}
    for key, value in peer.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            found = next((new for new in inner if new in key), None)
            state[key if found is None else key.replace(found, inner[found])] = value
    assert "head.regression_head.conv.6.weight" in state
    model = detector("retinanet", RETINANET_TORCHVISION)
    report = convert_torchvision(state, model)
    assert torch.equal(
        model.head.box_tower[3].conv.weight, peer.head.regression_head.conv[3][0].weight
    )
    assert any("eps 0" in note for note in report.notes)
    norms = [key for key in state if key.endswith("running_var")]
    assert torch.equal(model.backbone.stem.norm.running_var, state[norms[0]])

    with pytest.raises(CheckpointError, match=r"set model\.backbone\.norm_eps to 0"):
        convert_torchvision(
            state, detector("retinanet", RETINANET_TORCHVISION, {"backbone": {"norm_eps": 1e-5}})
        )


def test_the_80_classes_of_coco() -> None:
    peer = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    facts = recognise_torchvision(PublicWeights(peer.state_dict(), None), "memory")
    assert facts.num_classes == len(facts.class_names) == 80
    assert facts.class_names[0] == "person"
    assert facts.class_names[-1] == "toothbrush"
    model = detector("fcos", FCOS_TORCHVISION)
    convert_torchvision(peer.state_dict(), model)
    theirs = peer.head.classification_head.cls_logits.weight
    assert torch.equal(model.head.class_logits.weight[0], theirs[1])  # person
    assert torch.equal(model.head.class_logits.weight[79], theirs[90])  # toothbrush


class Malicious:
    def __reduce__(self) -> Any:
        return (print, ("code was run",))


def bad_files(folder: Path) -> dict[str, Path]:
    good = folder / "good.pth"
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, good)
    raw = good.read_bytes()
    files = {
        "missing": b"",
        "empty": b"",
        "text": b"hello, I am no checkpoint\n",
        "truncated": raw[: len(raw) // 2],
        "cut_late": raw[:-30],
        "binary": bytes(range(256)) * 20,
    }
    paths = {}
    for name, content in files.items():
        paths[name] = folder / f"{name}.pth"
        if name != "missing":
            paths[name].write_bytes(content)
    paths["folder"] = folder / "folder.pth"
    paths["folder"].mkdir()
    paths["zip"] = folder / "zip.pth"
    with zipfile.ZipFile(paths["zip"], "w") as archive:
        archive.writestr("readme.txt", "no tensors")
    for name, content in {
        "code": Malicious(),
        "number": 3,
        "list": [torch.zeros(2)],
        "no_tensors": {"a": 1},
        "nothing": {},
        "names": {1: torch.zeros(1), None: torch.zeros(1)},
    }.items():
        paths[name] = folder / f"{name}.pth"
        torch.save(content, paths[name])
    paths["old_pickle"] = folder / "old_pickle.pth"
    paths["old_pickle"].write_bytes(pickle.dumps({"a": 1}))
    return paths


def test_files_that_are_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, path in bad_files(tmp_path).items():
        with pytest.raises(CheckpointError) as caught:
            recognise_mmdetection(read_weights(path), str(path))
        message = str(caught.value)
        assert str(path) in message, name
        assert "\n" not in message, name
    assert "code was run" not in capsys.readouterr().out


def test_a_checkpoint_of_another_kind_is_told_apart() -> None:
    resnet = PublicWeights(get_model("resnet18", weights=None).state_dict(), None)
    peer = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    torchvisions = PublicWeights(peer.state_dict(), None)
    rcnn = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    ours = PublicWeights(detector("atss", SMALLER).state_dict(), None)
    mm = PublicWeights(mmdetection_state("atss", detector("atss", SMALLER)), None)
    for weights, recognise, words in [
        (resnet, recognise_mmdetection, "looks like a ResNet classifier"),
        (torchvisions, recognise_mmdetection, "looks like a torchvision one-stage detector"),
        (mm, recognise_torchvision, "looks like an MMDetection one-stage detector"),
        (ours, recognise_mmdetection, "looks like a checkpoint of detcli itself"),
        (
            PublicWeights(rcnn.state_dict(), None),
            recognise_torchvision,
            "looks like torchvision's Mask R-CNN",
        ),
    ]:
        with pytest.raises(CheckpointError, match=words):
            recognise(weights, "FILE")
