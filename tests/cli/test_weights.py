"""`weights import` on random weights in the layouts of other toolboxes."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
import torchvision

from detcli.engine.run import checkpoint
from detcli.weights import SOURCES
from tests.cli.run_cli import run
from tests.fixtures import name_seeded
from tests.paths import PARITY

pytestmark = pytest.mark.slow


def mmdetection_state(name):
    state = name_seeded.state_dict(PARITY / f"{name}.keys.txt")
    return {key: torch.from_numpy(value) for key, value in state.items()}


@pytest.mark.parametrize(
    ("fixture", "recipe"),
    [("mm_atss_r50", "atss_r50"), ("mm_ssd300", "ssd300"), ("mm_centernet_r18", "centernet_r18")],
)
def test_an_mmdetection_checkpoint_comes_in_and_predicts(fixture, recipe, tmp_path, capsys):
    """A published file holds more than tensors by name: meta, wrapped state."""
    source = tmp_path / "published_1x_coco.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": mmdetection_state(fixture)}, source)
    out = tmp_path / "imported.pt"
    done = run(capsys, "weights", "import", source, "--from", "mmdetection", "--out", out, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["recipe"] == recipe
    assert len(document["classes"]) == 80
    assert document["tensors"] == len(mmdetection_state(fixture))

    photo = tmp_path / "photo.jpg"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    seen = run(capsys, "predict", out, photo, "--out", tmp_path / "p", "--json", "--quiet")
    assert seen.code == 0, seen.err
    assert len(json.loads(seen.out)["images"]) == 1

    again = run(capsys, "weights", "import", source, "--out", out)
    assert again.code == 3
    assert "exists already" in again.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "torchvision"], "MMDetection one-stage"),
        (["--recipe", "retinanet_r50"], "holds a atss"),
        (["--recipe", "atss_r101"], "does not fit"),
        (["--classes", "a,b"], "80 classes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_does_not_fit_is_refused(tmp_path, capsys, arguments, words):
    source = tmp_path / "file.pth"
    torch.save(mmdetection_state("mm_atss_r50"), source)
    done = run(capsys, "weights", "import", source, "--out", tmp_path / "x.pt", *arguments)
    assert done.code == 3
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize(
    ("fixture", "recipe"),
    [
        ("mm_vfnet_r50", "vfnet_r50"),
        ("mm_nasfcos_r50_caffe", "nas_fcos_r50_caffe"),
        ("mm_ga_retinanet_r50_caffe", "ga_retinanet_r50_caffe"),
        ("mm_fcos_r50_caffe", "fcos_r50_caffe"),
    ],
)
def test_the_recipe_is_found(fixture, recipe, tmp_path, capsys):
    source = tmp_path / "published.pth"
    torch.save({"state_dict": mmdetection_state(fixture)}, source)
    done = run(capsys, "weights", "import", source, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["recipe"] == recipe


def test_a_class_head_goes_on_with_the_classes_of_the_users_data(tmp_path, capsys):
    """car is class 3 and person class 1 of COCO; wheel is new."""
    state = mmdetection_state("mm_atss_r50")
    source, out = tmp_path / "published.pth", tmp_path / "mine.pt"
    torch.save(state, source)
    done = run(
        capsys, "weights", "import", source, "--out", out, "--to-classes", "Car, wheel,person"
    )
    assert done.code == 0, done.err
    (summary,) = (line for line in done.err.splitlines() if "2 of 3 classes" in line)
    assert "1 randomly initialised" in summary
    assert "wheel   random" in done.err
    content = checkpoint.load(out)
    assert content["class_names"] == ["Car", "wheel", "person"]
    assert content["category_ids"] == [1, 2, 3]
    rows = content["model"]["head.class_logits.weight"]
    theirs = state["bbox_head.atss_cls.weight"]
    assert torch.equal(rows[[0, 2]], theirs[[2, 0]])
    assert not any(torch.equal(rows[1], row) for row in theirs)
    assert torch.equal(content["model"]["head.box.weight"], state["bbox_head.atss_reg.weight"])


class Code:
    """What a malicious pickle looks like: reading it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def wrong_files(tmp_path_factory):
    """Files that are no checkpoint of the detectors here, by what is said of them."""
    folder = tmp_path_factory.mktemp("wrong")
    resnet = torchvision.models.resnet18().state_dict()
    contents = {
        "a ResNet classifier": resnet,
        "an image classifier": torchvision.models.squeezenet1_1().state_dict(),
        "torchvision's SSDlite": {
            "head.a": resnet["fc.bias"],
            "backbone.features.0.0.w": resnet["fc.bias"],
        },
        "holds a Python object": Code(folder / "made"),
        "got list": [resnet["fc.bias"]],
        "no tensors by name": {"epoch": 3},
    }
    files = {}
    for number, (words, content) in enumerate(contents.items()):
        files[words] = folder / f"{number}.pth"
        torch.save(content, files[words])
    whole = files["a ResNet classifier"].read_bytes()
    for words, raw in {
        "truncated": whole[: len(whole) // 2],
        "torch.save": b"<html>404</html>",
        "an empty file": b"",
    }.items():
        files[words] = folder / f"{words}.pth"
        files[words].write_bytes(raw)
    return files


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "darknet"])
def test_wrong_files_are_refused_with_a_line_that_says_what_they_are(
    source, wrong_files, tmp_path, capsys
):
    for words, file in wrong_files.items():
        out = tmp_path / "x.pt"
        done = run(capsys, "weights", "import", file, "--from", source, "--out", out)
        assert done.code == 3, (words, done.err)
        assert words in done.err
        assert len(done.err.strip().splitlines()) == 1
        assert not out.exists()
        assert not (file.parent / "made").exists()


def test_darknets_reader_tells_a_file_of_torch_save(wrong_files, tmp_path, capsys):
    done = run(capsys, "weights", "import", wrong_files["a ResNet classifier"], "--from", "darknet")
    assert done.code == 3
    assert "is a file of torch.save" in done.err


def test_the_right_toolbox_is_named(tmp_path, capsys):
    source = tmp_path / "file.pth"
    torch.save(mmdetection_state("mm_atss_r50"), source)
    done = run(capsys, "weights", "import", source, "--from", "centernet")
    assert done.code == 3
    assert "looks like an MMDetection one-stage detector; try --from mmdetection" in done.err
