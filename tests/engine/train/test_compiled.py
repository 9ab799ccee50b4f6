"""torch.compile of the forward pass: the same losses, plain names, and one line without a compiler.

Generating the code of a whole detector takes minutes on a CPU, so here a detector is traced, with
its backward pass, but run by torch's own kernels.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detcli.engine.run.log import RunLog
from detcli.engine.train import compiled as module
from detcli.engine.train.build import prepare
from detcli.engine.train.compiled import compiled
from detcli.engine.train.step import compute_losses
from detcli.errors import RecipeError
from detcli.recipe import load_recipe
from tests.contracts.test_detectors import batch, some_targets
from tests.engine.train.interrupt import CPU
from tests.models.specs import SMALL, detector
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(name="traced")
def _traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without its code generator."""
    monkeypatch.setattr(
        module.torch, "compile", functools.partial(torch.compile, backend="aot_eager")
    )


def test_losses_and_gradients_are_those_of_the_detector(traced: None) -> None:
    torch._dynamo.reset()
    model = detector("atss", SMALL, {"head": {"num_convs": 0}}, num_classes=5)
    images, targets = batch(), some_targets()
    plain = model.loss(model(images, targets), targets)
    sum(plain.values()).backward()
    gradients = {key: value.grad.clone() for key, value in model.named_parameters()}
    model.zero_grad()
    fast = compiled(model, torch.device("cpu"), lambda text: None)
    losses = model.loss(fast(images, targets), targets)
    sum(losses.values()).backward()
    for term, value in plain.items():
        torch.testing.assert_close(losses[term], value, rtol=1e-5, atol=1e-6)
    for key, value in model.named_parameters():
        torch.testing.assert_close(value.grad, gradients[key], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_generated_code_gives_the_same_numbers() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)).requires_grad_(False)
    said: list[str] = []
    fast = compiled(network, torch.device("cpu"), said.append)
    x = torch.randn(4, 6)
    torch.testing.assert_close(fast(x), network(x), rtol=1e-5, atol=1e-6)
    assert "take longer" in said[0]
    assert all("_orig_mod" not in key for key in network.state_dict())


def test_a_trainer_keeps_plain_names_and_evaluates_the_detector(
    tmp_path: Path, traced: None
) -> None:
    torch._dynamo.reset()
    small = {"shapes": {"num_train": 2, "num_val": 2}}
    path = write_tiny(tmp_path, data=small, model={"head": {"num_convs": 0}})
    recipe = load_recipe(path, ["train.compile=true"]).recipe
    trainer = prepare(recipe, tmp_path, CPU, RunLog(quiet=True), explicit_lr=False)
    assert isinstance(trainer.network.model, torch._dynamo.OptimizedModule)
    assert not isinstance(trainer.network.detector, torch._dynamo.OptimizedModule)
    assert all("_orig_mod" not in key for key in trainer.network.detector.state_dict())
    assert {id(value) for value in trainer.network.model.parameters()} == {
        id(value) for value in trainer.network.detector.parameters()
    }


def test_without_a_compiler_it_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = write_tiny(tmp_path, data={"shapes": {"num_train": 2, "num_val": 2}})
    environment = os.environ | {
        "CXX": str(tmp_path / "no-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "detcli",
            "train",
            str(path),
            "train.compile=true",
            "--dry-run",
            "--device",
            "cpu",
            "--quiet",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1, done.stderr
    assert "train.compile: torch.compile does not work on cpu here" in lines[0]
    assert "C++ compiler" in lines[0]
    assert "Traceback" not in done.stderr


def test_maps_of_a_teacher_cannot_be_compared_with_a_compiled_student(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    with pytest.raises(RecipeError, match=r"distill.* a compiled forward"):
        load_recipe(path, ["train.compile=true", "train.distill.teacher=x"])
    only_scores = "{teacher: x, feature_weight: 0, background_weight: 0}"
    load_recipe(path, ["train.compile=true", f"train.distill={only_scores}"])


def test_scores_of_a_teacher_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.engine.train.distill.test_teacher import first_batch, trainer_of, write_teacher

    monkeypatch.setattr(module.torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    spec = {"head": {"num_convs": 0}}
    off = ["train.distill.feature_weight=0", "train.distill.background_weight=0"]
    teacher = write_teacher(tmp_path, model=spec)
    plain = trainer_of(tmp_path, teacher, *off, model=spec)
    fast = trainer_of(tmp_path, teacher, *off, "train.compile=true", model=spec)
    images, targets = first_batch(plain)
    for term, value in compute_losses(plain.run.recipe, plain.network, images, targets).items():
        torch.testing.assert_close(
            compute_losses(fast.run.recipe, fast.network, images, targets)[term],
            value,
            rtol=1e-5,
            atol=1e-6,
        )
