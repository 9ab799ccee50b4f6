"""`weights import` on random weights in the layouts of other toolboxes."""

import json
import sys

import pytest
import torch

from tests.cli.run_cli import run
from tests.paths import SHARED, needs_shared


def mmdetection_state(name):
    sys.path.insert(0, str(SHARED / "parity"))
    try:
        import weights
    finally:
        sys.path.pop(0)
    state = weights.state_dict(str(SHARED / "parity" / f"{name}.keys.txt"))
    return {key: torch.from_numpy(value) for key, value in state.items()}


@needs_shared
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

    photo = sorted((SHARED / "data" / "demo-photos").glob("*.jpg"))[0]
    seen = run(capsys, "predict", out, photo, "--out", tmp_path / "p", "--json", "--quiet")
    assert seen.code == 0, seen.err
    assert len(json.loads(seen.out)["images"]) == 1

    again = run(capsys, "weights", "import", source, "--out", out)
    assert again.code == 3
    assert "exists already" in again.err


@needs_shared
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
