"""`detcli profile` from the command line, on a tiny recipe."""

import json
import re

import pytest
import torch

from detcli.engine.profile import session
from detcli.engine.profile.timing import Spread
from tests.cli.run_cli import run
from tests.engine.profile.made import made_loader, made_step
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

FAST = ("--seconds", "0.05", "--device", "cpu")
MODEL_KEYS = {"params_total", "params_trainable", "gmacs", "latency_ms", "images_per_s"}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_tiny(tmp_path)


def coco_at(folder):
    """Overrides that make it a recipe of COCO data in a folder."""
    splits = [f"data.{name}={{annotations: {name}.json, images: .}}" for name in ("train", "val")]
    return ("data.format=coco", f"data.root={folder}", "data.shapes=null", *splits)


def document(capsys, *arguments):
    done = run(capsys, "profile", *arguments, *FAST, "--json", "--quiet")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_everything_in_tables_and_words(recipe, capsys):
    done = run(capsys, "profile", recipe, *FAST)
    assert done.code == 0, done.err
    for words in (
        "tiny: 4 classes, images of 64 x 64",
        "forward pass: cpu, 1 thread, float32",
        "loading",
        "step: batch 2",
        "post-processing: ",
        "-bound: ",
        "network: ",
        "suppression (nms): ",
    ):
        assert words in done.out, words


def test_the_document(recipe, capsys):
    found = document(capsys, recipe, "--what", "post,model", "--batch", "2,1")
    assert {"model", "loader", "step", "post", "verdict"} <= set(found)
    assert set(found["model"]) >= MODEL_KEYS
    assert (found["loader"], found["step"]) == (None, None)
    assert [each["batch"] for each in found["model"]["batches"]] == [2, 1]
    assert found["model"]["latency_ms"] == found["model"]["batches"][0]["latency_ms"]
    assert found["post"]["images"] >= 2
    assert found["device"] == "cpu, 1 thread"
    assert found["verdict"].startswith("network: ")


def test_size_and_tricks_and_overrides_change_the_network(recipe, capsys):
    plain = document(capsys, recipe, "--what", "model")
    arguments = (
        "--what",
        "model",
        "--size",
        "65x100",
        "--trick",
        "rep-conv",
        "model.head.norm=none",
    )
    changed = document(capsys, recipe, *arguments)
    assert plain["model"]["image"] == [64, 64]
    assert changed["model"]["image"] == [96, 128]
    assert changed["model"]["params_total"] > plain["model"]["params_total"]
    assert changed["model"]["fused"]["parts"]
    assert plain["model"]["fused"] is None


def test_two_recipes(recipe, tmp_path, capsys, monkeypatch):
    (tmp_path / "other").mkdir()
    other = write_tiny(tmp_path / "other", name="other", model={"neck": {"out_channels": 128}})
    asked = []

    def pair(first, second, *rest, seconds):
        asked.append((first.name, second.name, seconds))
        return Spread(2.0, 1.9, 2.1)

    # Measured for real in the tests of each part.
    monkeypatch.setattr(session, "measure_step", lambda *rest, **keywords: made_step())
    monkeypatch.setattr(session, "measure_loader", lambda *rest, **keywords: made_loader(20.0, 40))
    monkeypatch.setattr(session, "compare_steps", pair)
    monkeypatch.setattr(session, "compare_loaders", pair)
    found = document(capsys, recipe, "--vs", other)
    assert asked == [("tiny", "other", 0.05)] * 2
    assert (found["recipe"], found["vs"]["recipe"]) == ("tiny", "other")
    assert found["vs"]["model"]["params_total"] > found["model"]["params_total"]
    assert found["notes"] == found["vs"]["notes"] == ["a note", "a warning"]
    ratios = found["vs"]["ratios"]
    for label in ("step without data wait (ms)", "loading (images/s)"):
        assert ratios[label] == {"median": 2.0, "low": 1.9, "high": 2.1}
    forward = ratios["forward pass, batch 1 (ms)"]
    assert 0 < forward["low"] <= forward["median"] <= forward["high"]
    done = run(capsys, "profile", recipe, "--what", "model", "--vs", other, *FAST)
    assert done.code == 0, done.err
    assert "A: tiny, B: other; cpu, 1 thread" in done.out
    assert re.search(r"trainable \(M\) +1\d\.\d +1\d\.\d +1\.\d\d", done.out)
    assert "A: network: " in done.out
    assert "B: network: " in done.out


def test_a_slow_decode_without_workers_is_called_data_bound(recipe, capsys, ticks):
    ticks.decoding_takes(0.25)
    found = document(capsys, recipe, "--what", "step")
    assert found["step"]["data_wait_share"] > 0.9
    share = f"{found['step']['data_wait_share']:.0%}"
    assert found["verdict"].startswith(f"data-bound: the step waits {share} of the time for images")


def test_a_network_needs_no_data(recipe, tmp_path, capsys):
    gone = coco_at(tmp_path / "none")
    done = run(capsys, "profile", recipe, *gone, "--what", "model", *FAST)
    assert done.code == 0, done.err
    assert "without it the network is built for 80 classes" in done.err
    assert "tiny: 80 classes" in done.out
    named = document(capsys, recipe, *gone, "data.classes=[a, b]", "--what", "model")
    assert named["model"]["num_classes"] == 2
    assert any("is built for 2 classes" in note for note in named["notes"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent"], 2, "no recipe 'absent'"),
        (["RECIPE", "--what", "speed"], 2, "--what speed: unknown; expected model, loader, step"),
        (["RECIPE", "--what", ","], 2, "got nothing"),
        (["RECIPE", "--batch", "0"], 2, "--batch 0: expected whole numbers from 1"),
        (["RECIPE", "--batch", "1,two"], 2, "--batch 1,two"),
        (["RECIPE", "--batch", "99999"], 2, "--batch 99999"),
        (["RECIPE", "--size", "7x7"], 2, "--size 7x7: expected sides of 32 to 8192 pixels"),
        (["RECIPE", "--size", "800"], 2, "--size 800: expected height x width"),
        (["RECIPE", "--size", "99999x800"], 2, "--size 99999x800"),
        (["RECIPE", "--what", "post", "--batch", "2"], 2, "--batch: acts only on model"),
        (["RECIPE", "--what", "model", "--compile"], 2, "--compile: acts only on step"),
        (["RECIPE", "--what", "model", "--trace", "a.json"], 2, "--trace: acts only on step"),
        (["RECIPE", "--trace", "a.txt"], 2, "a.txt"),
        (["RECIPE", "--seconds", "nan"], 2, "--seconds nan: expected a number above 0"),
        (["RECIPE", "--seconds", "0"], 2, "--seconds 0"),
        (["RECIPE", "--vs", "RECIPE", "--weights", "w.pt"], 2, "--vs: --weights and --trace"),
        (["RECIPE", "--vs", "absent"], 2, "no recipe 'absent'"),
        (["RECIPE", "--what", "model", "--weights", "w.pt"], 3, "w.pt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_clear_line(arguments, code, words, recipe, capsys):
    done = run(capsys, "profile", *(recipe if word == "RECIPE" else word for word in arguments))
    assert done.code == code, done.err
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize("part", ["loader", "step", "post"])
def test_data_that_cannot_be_read_is_said_before_anything_is_measured(
    part, recipe, tmp_path, capsys
):
    (tmp_path / "broken").mkdir()
    done = run(capsys, "profile", recipe, *coco_at(tmp_path / "broken"), "--what", f"model,{part}")
    assert done.code == 3, done.err
    assert "broken/train.json" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_several_processes_are_refused(recipe, capsys, monkeypatch):
    from detcli.engine.run import distributed

    ranks = distributed.Ranks(0, 2, torch.device("cpu"))
    monkeypatch.setattr(distributed, "start", lambda device: ranks)
    done = run(capsys, "profile", recipe)
    assert done.code == 2
    assert "runs in one process" in done.err
