"""Files that are no checkpoint."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import detection, get_model

from detcli.errors import CheckpointError
from detcli.weights import PublicWeights, read_weights, recognise_mmdetection, recognise_torchvision
from tests.models.specs import detector
from tests.weights.states import SMALLER, mmdetection_state


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
