"""`train` and `eval` on a real, tiny run."""

import json
import math
import re

import numpy as np
import pytest
import torch

from detcli.engine.run import checkpoint
from tests.cli.run_cli import run
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lines(run_folder):
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def test_run_folder_holds_everything(finished):
    _, folder = finished
    names = {path.name for path in folder.iterdir()}
    assert {
        "recipe.yaml",
        "env.json",
        "log.txt",
        "metrics.jsonl",
        "last.pt",
        "best.pt",
        "predictions.json",
        "predictions.meta.json",
        "ground_truth.json",
        "curves.png",
    } <= names
    assert not any(name.startswith(".") for name in names)


def test_metrics_hold_every_step_and_evaluation(finished):
    kinds = [line["kind"] for line in lines(finished[1])]
    assert kinds.count("train") == 8
    assert kinds.count("eval") == 2
    assert kinds.count("val_loss") == 2
    first = next(line for line in lines(finished[1]) if line["kind"] == "train")
    assert first["loss"] == pytest.approx(first["class"] + first["box"] + first["centerness"])
    assert all(math.isfinite(line["loss"]) for line in lines(finished[1]) if "loss" in line)


def test_log_says_learning_rate_data_and_what_fired(finished):
    log = (finished[1] / "log.txt").read_text()
    assert "learning rate 0.01" in log
    assert "8 images, " in log
    assert "flip_horizontal" in log


def test_ap_in_training_is_the_ap_of_eval_and_of_the_file(finished, capsys):
    """PEERS 17: one code path."""
    _, folder = finished
    measured = [line for line in lines(folder) if line["kind"] == "eval"]
    best = max(measured, key=lambda line: line["AP"])
    again = run(capsys, "eval", folder, "--json", "--quiet", "--verify")
    assert again.code == 0, again.err
    document = json.loads(again.out)
    assert document["metrics"]["AP"] == best["AP"]
    assert document["largest_difference"] < 1e-12
    truth = next((folder.parent / "shapes").rglob("val.json"))
    for extra in ([], ["--gt", truth]):
        filed = run(capsys, "eval", "--predictions", folder / "predictions.json", "--json", *extra)
        assert json.loads(filed.out)["metrics"] == document["metrics"]


def test_candidates_are_saved_on_request(finished, tmp_path, capsys):
    done = run(capsys, "eval", finished[1], "--candidates", "--out", tmp_path / "e", "--json")
    assert done.code == 0, done.err
    with np.load(tmp_path / "e" / "candidates.npz") as columns:
        assert {"image_id", "category_id", "bbox", "score"} <= set(columns)
    kept = json.loads((tmp_path / "e" / "predictions.json").read_text())
    assert len(kept) == json.loads(done.out)["detections"]


def test_weights_start_a_new_run(finished, tmp_path, capsys):
    recipe, folder = finished
    done = run(
        capsys,
        "train",
        recipe,
        "--weights",
        folder / "best.pt",
        "--out",
        tmp_path / "r",
        "schedule.epochs=1",
        "train.val_loss=false",
        "--quiet",
        "--json",
    )
    assert done.code == 0, done.err
    assert re.search(r"tensors loaded.*: none", (tmp_path / "r" / "log.txt").read_text())
    first = next(line for line in lines(tmp_path / "r") if line["kind"] == "train")
    fresh = next(line for line in lines(folder) if line["kind"] == "train")
    assert first["loss"] < fresh["loss"]


def test_weights_of_another_detector_are_refused(finished, tmp_path, capsys):
    recipe, folder = finished
    done = run(
        capsys,
        "train",
        recipe,
        "model.name=retinanet",
        "--weights",
        folder / "best.pt",
        "--out",
        tmp_path / "r",
        "--quiet",
    )
    assert done.code == 3
    assert "another detector (atss)" in done.err


def test_resume_of_a_finished_run_changes_nothing(finished, capsys):
    before = (finished[1] / "metrics.jsonl").read_bytes()
    done = run(capsys, "train", "--resume", finished[1], "--quiet", "--json")
    assert done.code == 0, done.err
    assert (finished[1] / "metrics.jsonl").read_bytes() == before


def test_resume_takes_no_overrides(finished, capsys):
    done = run(capsys, "train", finished[1], "--resume", "optim.lr=1")
    assert done.code == 2
    assert "--weights" in done.err


def test_explicit_learning_rate_is_used_as_it_is(tmp_path, capsys):
    """PEERS 3."""
    recipe = write_tiny(tmp_path, optim={"lr_batch": 16})
    done = run(
        capsys,
        "train",
        recipe,
        "optim.lr=0.003",
        "schedule.epochs=1",
        "schedule.warmup=none",
        "--out",
        tmp_path / "r",
        "--quiet",
        "--json",
    )
    assert done.code == 0, done.err
    assert lines(tmp_path / "r")[0]["lr"] == 0.003
    assert "command line" in (tmp_path / "r" / "log.txt").read_text()


def test_dry_run_writes_nothing(tmp_path, capsys, monkeypatch):
    recipe = write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = run(capsys, "train", recipe, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert set(json.loads(done.out)["losses"]) == {"class", "box", "centerness"}
    assert not (tmp_path / "runs").exists()


def test_accumulation_takes_fewer_steps(tmp_path, capsys):
    recipe = write_tiny(tmp_path)
    done = run(
        capsys,
        "train",
        recipe,
        "train.accumulate=3",
        "schedule.epochs=1",
        "--out",
        tmp_path / "r",
        "--quiet",
        "--json",
    )
    assert done.code == 0, done.err
    steps = [line for line in lines(tmp_path / "r") if line["kind"] == "train"]
    assert len(steps) == 2  # 4 batches: 3 and 1
    assert "6 images per step" in (tmp_path / "r" / "log.txt").read_text()


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_low_precision_trains(tmp_path, capsys, amp):
    recipe = write_tiny(tmp_path, data={"shapes": {"num_train": 4, "num_val": 2}})
    done = run(
        capsys,
        "train",
        recipe,
        f"train.amp={amp}",
        "train.channels_last=true",
        "schedule.epochs=1",
        "--out",
        tmp_path / "r",
        "--quiet",
        "--json",
    )
    assert done.code == 0, done.err
    weights = checkpoint.load(tmp_path / "r" / "last.pt")["model"]
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_divergence_names_the_term_and_replays(tmp_path, capsys):
    recipe = write_tiny(tmp_path)
    done = run(
        capsys,
        "train",
        recipe,
        "optim.lr=1e30",
        "schedule.warmup=none",
        "--out",
        tmp_path / "r",
        "--quiet",
    )
    assert done.code == 4
    assert "diverged at epoch 1" in done.err
    saved = tmp_path / "r" / "diverged-rank0.pt"
    again = run(capsys, "train", "--replay", saved, "--quiet")
    assert again.code == 4
    term = done.err.split(": ")[2].split(" =")[0]
    assert term in again.err


def test_a_checkpoint_is_no_replay(finished, capsys):
    done = run(capsys, "train", "--replay", finished[1] / "last.pt")
    assert done.code == 3


def overfit(capsys, tmp_path, seed):
    """Six objects of plain shapes on two images of 64 pixels."""
    recipe = write_tiny(
        tmp_path,
        data={"shapes": {"variant": "plain", "seed": seed}},
        model={"anchor_scale": 4.0, "backbone": {"norm": "gn"}},
        optim={"name": "adamw", "lr": 0.001},
        train={"log_every": 50},
    )
    return run(
        capsys, "train", recipe, "--overfit", "2", "--out", tmp_path / "r", "--quiet", "--json"
    )


def test_overfit_passes_on_two_images(tmp_path, capsys):
    done = overfit(capsys, tmp_path, seed=2)
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["AP50"] > 0.9
    log = (tmp_path / "r" / "log.txt").read_text()
    assert "overfit check passed" in log
    assert "never found" not in log


def test_overfit_names_the_object_that_gets_no_anchor(tmp_path, capsys, monkeypatch):
    """With this seed a triangle covers a cross, and ATSS gives all of its anchors to the former."""
    monkeypatch.setattr("detcli.engine.train.overfit.STEPS", 100)
    done = overfit(capsys, tmp_path, seed=0)
    assert done.code == 1
    log = (tmp_path / "r" / "log.txt").read_text()
    assert "never found: cross at x 10.25, y 26.95, 11.44 x 12.96 pixels" in log
    assert log.count("never found") == 1


def test_overfit_fails_with_advice_and_exit_code_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("detcli.engine.train.overfit.STEPS", 8)
    recipe = write_tiny(tmp_path)
    done = run(
        capsys,
        "train",
        recipe,
        "optim.lr=1e-9",
        "--overfit",
        "2",
        "--out",
        tmp_path / "r",
        "--quiet",
    )
    assert done.code == 1
    assert "Look at" in (tmp_path / "r" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train"], 2, "expected a recipe"),
        (["train", "no_such_recipe"], 2, "no_such_recipe"),
        (["train", "atss_r18_shapes", "optim.lrr=1"], 2, "optim.lr"),
        (["train", "--resume", "no_such_run"], 2, "no_such_run"),
        (["train", "--resume", "runs/none/1"], 2, "--resume runs/none/1: no such run folder"),
        (["train", "--replay", "absent.pt"], 3, "absent.pt"),
        (["eval"], 2, "expected"),
        (["eval", "no_such_run"], 2, "no_such_run"),
        (["eval", "atss_r18_shapes"], 2, "--checkpoint"),
        (["eval", "--predictions", "absent.json", "--gt", "absent.json"], 3, "absent.json"),
        (["predict", "no_such_run", "."], 3, "."),
        (["weights", "import", "absent.pth", "--from", "torchvision"], 3, "absent.pth"),
        (["train", "atss_r18_shapes", "--device", "tpu"], 2, "tpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_clear_line(tmp_path, capsys, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    done = run(capsys, *arguments)
    assert done.code == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_used_out_folder_is_refused(finished, capsys):
    done = run(capsys, "train", finished[0], "--out", finished[1])
    assert done.code == 2
    assert "--resume" in done.err
