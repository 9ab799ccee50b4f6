"""Train a recipe in this process, stop it in the middle, go on, and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detcli.engine.run.distributed import Ranks
from detcli.engine.train import loop as train
from detcli.engine.train import modes as session
from detcli.engine.train.trainer import Trainer
from detcli.recipe import load_recipe

CPU = Ranks(0, 1, torch.device("cpu"))
TIMING = {"images_per_s", "data_wait", "memory_gib", "seconds"}


class Stopped(Exception):
    """What the interruption raises."""


def run_whole(recipe: Path, out: Path, *overrides: str) -> Path:
    """Train without interruption; the run folder."""
    session.new_run(load_recipe(recipe, overrides), CPU, out=out, weights=None, quiet=True)
    return out


def run_interrupted(
    recipe: Path, out: Path, after: int, monkeypatch: pytest.MonkeyPatch, *overrides: str
) -> Path:
    """Train, stop in the middle of the step after `after` steps, and go on to the end."""
    take_step = train.take_step

    def stops(trainer: Trainer) -> None:
        if trainer.position.step == after:
            raise Stopped
        take_step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(train, "take_step", stops)
        with pytest.raises(Stopped):
            run_whole(recipe, out, *overrides)
    session.resume_run(out, CPU, quiet=True)
    return out


def history(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


def last(run: Path) -> dict[str, Any]:
    """The last checkpoint."""
    content: dict[str, Any] = torch.load(run / "last.pt", weights_only=True)
    return content


def assert_same_state(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
