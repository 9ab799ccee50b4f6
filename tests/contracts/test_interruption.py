"""A run that is killed at any moment goes on exactly where its last checkpoint stands."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detcli.engine.run import checkpoint
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

TIMING = {"images_per_s", "data_wait", "memory_gib", "seconds"}


def start(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "detcli", "train", *arguments, "--device", "cpu", "--quiet"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


def history(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


def writing(run: Path) -> bool:
    return any(run.glob(".*.tmp"))


def kill(process: subprocess.Popen, run: Path, moment: str, chance: random.Random) -> None:
    """Kill with SIGKILL: at a random time once a checkpoint exists, or while one is written."""
    while process.poll() is None and not (run / "last.pt").exists():
        time.sleep(0.01)
    if moment == "while writing":
        while process.poll() is None and not writing(run):
            time.sleep(0.0005)
    else:
        time.sleep(chance.uniform(0.0, 1.5))
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    recipe = write_tiny(
        tmp_path,
        schedule={"epochs": 4},
        train={"save_every": 1, "accumulate": 1, "ema": {"decay": 0.9, "warmup_steps": 2}},
        data={"augment": {"photometric": {"prob": 0.5}}},
    )
    finish(start(str(recipe), "--out", str(tmp_path / "whole")))

    run, chance = tmp_path / "killed", random.Random(0)
    process = start(str(recipe), "--out", str(run))
    interrupted_writes = 0
    for moment in ("while writing", "at random"):
        kill(process, run, moment, chance)
        interrupted_writes += writing(run)
        for name in ("last.pt", "best.pt"):
            if (run / name).exists():
                checkpoint.load(run / name)
        process = start("--resume", str(run))
    finish(process)
    assert interrupted_writes >= 1, "no kill hit a write: the test proves nothing about it"

    assert history(run) == history(tmp_path / "whole")
    killed, whole = (
        torch.load(folder / "last.pt", weights_only=True) for folder in (run, tmp_path / "whole")
    )
    for part in ("model", "ema"):
        assert killed[part].keys() == whole[part].keys()
        for name in whole[part]:
            assert torch.equal(killed[part][name], whole[part][name]), name
    assert killed["position"] == whole["position"]
