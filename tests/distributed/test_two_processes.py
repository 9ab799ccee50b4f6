import json
import os
import subprocess
import sys

import pytest
import torch

from tests.distributed.joint_batch import DETECTORS, build, joint_batch, total_loss
from tests.paths import ROOT
from tests.recipes import write_tiny


def torchrun(*arguments):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
        *arguments,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("kind", ["full", "empty rank"])
def test_gradients_equal_those_of_the_joint_batch(tmp_path, name, kind):
    """PEERS 11: a rank without objects neither hangs nor shifts the gradients."""
    path = tmp_path / "gradients.pt"
    torchrun("-m", "tests.distributed.gradients", name, kind, str(path))
    found = torch.load(path, weights_only=True)

    images, targets = joint_batch(kind)
    detector = build(name)
    total_loss(detector, detector(images, targets), targets).backward()
    for key, parameter in detector.named_parameters():
        scale = max(parameter.grad.abs().max().item(), 1e-3)
        assert (found[key] - parameter.grad).abs().max().item() <= 1e-5 * scale, key


def test_gpus_option_trains_on_two_processes_and_logs_once(tmp_path):
    recipe = write_tiny(tmp_path, schedule={"epochs": 1})
    done = subprocess.run(
        [sys.executable, "-m", "detcli", "train", str(recipe), "--gpus", "2", "--device", "cpu",
         "--json", "--out", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(tmp_path / "run")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    rates = [line for line in lines if "learning rate" in line]
    assert len(rates) == 1
    assert "4 images per step (2 per rank x 2 ranks x 1 accumulated)" in rates[0]
    steps = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert sum(line["kind"] == "train" for line in steps) == 2  # 8 images, 4 per step


def test_exit_code_of_a_failing_rank_comes_through(tmp_path):
    recipe = write_tiny(tmp_path)
    (tmp_path / "shapes").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "detcli", "train", str(recipe), "--gpus", "2", "--device", "cpu"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
