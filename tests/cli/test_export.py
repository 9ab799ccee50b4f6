"""`detcli export` of a tiny run with everything that can be fused."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from detcli.engine.detect import export as engine
from detcli.engine.detect.load import load_trained
from detcli.engine.run import checkpoint
from detcli.engine.run.build import build_model
from detcli.engine.run.distributed import Ranks
from detcli.recipe import load_recipe
from tests.cli.run_cli import run
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

CLASSES = ("circle", "square", "triangle", "cross")
MODEL = {
    "neck": {"conv": "rep", "upsample": "carafe"},
    "head": {"conv": "rep", "norm": "none", "implicit": True},
    "auxiliary": {},
    "score_threshold": 0.0,
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def finished(tmp_path):
    """A run folder whose detector has a moving average, and norms that moved."""
    torch.manual_seed(0)
    recipe = load_recipe(write_tiny(tmp_path, model=MODEL)).recipe
    detector = build_model(recipe, len(CLASSES))
    average = build_model(recipe, len(CLASSES))
    for module in average.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    folder = tmp_path / "run"
    folder.mkdir()
    content = {
        "recipe": recipe.model_dump(mode="json"),
        "class_names": list(CLASSES),
        "category_ids": [1, 2, 3, 4],
        "model": detector.state_dict(),
        "ema": average.state_dict(),
    }
    checkpoint.save(folder / "best.pt", {"kind": "training", **content})
    return folder


def test_the_exported_file_is_a_smaller_checkpoint_with_the_same_results(
    finished, tmp_path, capsys
):
    out = tmp_path / "small.pt"
    done = run(capsys, "export", finished, "--out", out, "--json", "--quiet", "--device", "cpu")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["checkpoint"] == str(out)
    assert document["largest_difference"] < 1e-4
    assert document["image"] == [64, 64]
    assert {"neck.output.0", "head.box_tower.0.conv", "head.centerness"} <= set(document["fused"])
    before, after = document["before"], document["after"]
    assert after["parameters"] < before["parameters"]
    assert after["file_bytes"] == out.stat().st_size < before["file_bytes"] / 2
    assert min(before["ms_per_image"], after["ms_per_image"]) > 0

    content = torch.load(out, weights_only=True)
    assert set(content) == {"format", "kind", *checkpoint.REQUIRED}
    assert content["recipe"]["model"]["neck"]["conv"] == "plain"
    assert content["recipe"]["model"]["head"]["conv"] == "plain"
    assert content["recipe"]["model"]["head"]["implicit"] is False
    assert content["recipe"]["model"]["neck"]["upsample"] == "carafe"
    assert content["recipe"]["model"]["auxiliary"] is None
    assert not any("auxiliary" in name for name in content["model"])
    assert after["parameters"] == sum(
        value.numel()
        for name, value in content["model"].items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )

    used = run(capsys, "eval", out, "--quiet", "--out", tmp_path / "e")
    assert used.code == 0, used.err
    images = next(tmp_path.rglob("val.json")).parents[1] / "images" / "val"
    used = run(capsys, "predict", out, images, "--quiet", "--out", tmp_path / "p")
    assert used.code == 0, used.err


def test_the_file_gives_what_the_run_gives(finished, tmp_path, capsys):
    out = tmp_path / "small.pt"
    assert run(capsys, "export", finished, "--out", out, "--quiet", "--device", "cpu").code == 0
    # The moving average, that is.
    weights, exported = checkpoint.load(finished / "best.pt"), checkpoint.load(out)["model"]
    name = "backbone.stem.conv.weight"
    assert torch.equal(exported[name], weights["ema"][name])
    assert not torch.equal(exported[name], weights["model"][name])
    alone = Ranks(0, 1, torch.device("cpu"))
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        want, got = (
            load_trained(str(place), None, (), alone).detector(image) for place in (finished, out)
        )
    for a, b in zip(engine.tensors(want), engine.tensors(got), strict=True):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max().clamp(min=1)


def test_table_and_default_place(finished, capsys):
    done = run(capsys, "export", finished, "--quiet")
    assert done.code == 0, done.err
    assert "images of 64 x 64, " in done.out
    assert "parts fused; largest difference" in done.out
    again = run(capsys, "export", finished, "--quiet")
    assert again.code == 3
    assert again.err.startswith(f"error: {finished / 'exported.pt'}: exists already")


def test_a_detector_that_changed_is_refused(finished, tmp_path, capsys, monkeypatch):
    def spoiled(model):
        names = fuse(model)
        with torch.no_grad():
            model.head.box.bias += 0.01
        return names

    fuse = engine.fuse
    monkeypatch.setattr(engine, "fuse", spoiled)
    done = run(capsys, "export", finished, "--out", tmp_path / "small.pt", "--quiet")
    assert done.code == 3
    assert "expected at most 1e-04; nothing was written" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "small.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent"], 2, "absent"),
        (["atss_r18_shapes"], 2, "has no weights"),
        ([Path(__file__)], 3, "test_export.py"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(capsys, "export", *arguments)
    assert done.code == code, done.err
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
