"""Phases of the training step: they add up, training is the same with and without a clock, and a
recipe that waits for its data is seen to wait."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from detcli.engine.profile import clock as clock_module
from detcli.engine.profile import report
from detcli.engine.profile.clock import Clock
from detcli.engine.profile.step import (
    DATA_WAIT,
    compare_steps,
    in_order,
    measure_step,
    queue_warnings,
    timed_steps,
)
from detcli.engine.profile.timing import Spread
from detcli.engine.profile.torch_profiler import STEPS, check_trace, write_trace
from detcli.engine.profile.trial import build_trial
from detcli.engine.train.build import prepare
from detcli.engine.train.loop import endless_batches, train_batch
from detcli.errors import UsageError
from detcli.models import ssd
from detcli.phases import listening, phase
from detcli.recipe import load_recipe
from tests.contracts.test_detectors import batch, some_targets
from tests.engine.profile.made import made
from tests.engine.profile.trials import CPU, QUIET, SLOW_SECONDS, thin_network, tiny, trial
from tests.engine.train.interrupt import assert_same_state
from tests.models.specs import FPN_DETECTORS, SMALL_OF, detector, thin_vgg
from tests.recipes import write_tiny
from tests.ticks import TICK_SECONDS, Ticks

pytestmark = pytest.mark.slow

__all__ = ["thin_network"]  # a fixture of every test here

ALWAYS = {
    "data wait",
    "transfer",
    "forward",
    "assignment",
    "loss",
    "check",
    "backward",
    "optimiser",
    "logging",
    "other",
}


def test_inner_phases_count_for_themselves_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now)
    clock = Clock(torch.device("cpu"), waits=True)
    clock.start()
    with listening(clock):
        for _ in range(2):
            now += 1.0
            with phase("loss"):
                now += 2.0
                with phase("assignment"):
                    now += 4.0
                with phase("assignment"):
                    now += 8.0
                now += 16.0
            clock.end_step()
    assert clock.step_seconds == [31.0, 31.0]
    assert clock.phases_ms() == {"assignment": 12e3, "loss": 18e3, "other": 1e3}


def test_phases_add_up_to_the_step(tmp_path: Path) -> None:
    trainer = trial(tmp_path, train={"ema": {}})
    clock, seconds = timed_steps(trainer, endless_batches(trainer), QUIET, seconds=0.5)
    phases = in_order(clock.phases_ms())
    assert set(phases) == ALWAYS | {"ema"}
    assert next(iter(phases)) == DATA_WAIT
    assert list(phases)[-1] == "other"
    step_ms = 1e3 * sum(seconds) / len(seconds)
    assert sum(phases.values()) == pytest.approx(step_ms)
    assert min(phases.values()) >= 0


@pytest.mark.parametrize("name", FPN_DETECTORS)
def test_assignment_is_apart_from_the_loss(name: str, ticks: Ticks) -> None:
    model = detector(name, SMALL_OF[name], num_classes=5)
    outputs = model(batch())
    clock = Clock(torch.device("cpu"), waits=True)
    with listening(clock):
        model.loss(outputs, some_targets())
    assert clock.totals["assignment"] >= 0.99 * TICK_SECONDS


def test_training_is_the_same_with_a_clock(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, train={"ema": {}, "accumulate": 2}, optim={"clip_norm": 5.0})
    states = []
    for heard in (nullcontext(), listening(Clock(torch.device("cpu"), waits=True))):
        trainer = prepare(recipe, tmp_path, CPU, QUIET, explicit_lr=False)
        trainer.network.detector.train()
        with heard:
            for found in islice(endless_batches(trainer), 5):
                train_batch(trainer, found)
        assert trainer.averages.ema is not None
        states.append(
            (trainer.network.detector.state_dict(), trainer.averages.ema.model.state_dict())
        )
    for plain, timed in zip(*states, strict=True):
        assert_same_state(plain, timed)


def test_a_trial_learns_nothing_and_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a profile must not download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuses)
    weights = load_recipe("atss_r50").recipe.model.backbone.weights
    assert weights is not None
    recipe = load_recipe(
        write_tiny(tmp_path, model={"backbone": {"weights": weights, "depth": 50}})
    )
    trainer = build_trial(recipe.recipe, tmp_path, CPU)
    before = {name: value.clone() for name, value in trainer.network.detector.named_parameters()}
    train_batch(trainer, next(endless_batches(trainer)))
    assert trainer.position.step == 1
    for name, value in trainer.network.detector.named_parameters():
        assert torch.equal(before[name], value), name


def test_slow_decoding_without_workers_is_waiting(tmp_path: Path, ticks: Ticks) -> None:
    ticks.decoding_takes(SLOW_SECONDS)
    found = measure_step(tiny(tmp_path), CPU, QUIET, seconds=0.1)
    assert found.data_wait_share > 0.9
    assert found.phases_ms[DATA_WAIT] >= 2 * 1e3 * SLOW_SECONDS  # two images a batch
    assert found.images_per_s < 1 / SLOW_SECONDS
    # The variants do not wait: a step of theirs is what remains.
    rows = {row.name: row.ratio for row in found.variants}
    assert rows["base"] == Spread(1.0, 1.0, 1.0)


def test_a_profile_has_every_number(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    found = measure_step(tiny(tmp_path), CPU, QUIET, seconds=0.2, trace=trace)
    document = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert document["batch"] == 2
    assert set(document["phases_ms"]) == ALWAYS
    assert document["images_per_s"] == pytest.approx(
        2e3 / sum(document["phases_ms"].values()), rel=1e-6
    )
    low, median, high = (document["step_ms"][name] for name in ("low", "median", "high"))
    assert low <= median <= high
    assert document["steps"] >= 3
    assert 0.05 < document["peak_memory_gib"] < 64
    rows = {row["name"]: row for row in document["variants"]}
    assert next(iter(rows)) == "base"
    assert rows["channels last"]["ratio"]["median"] > 0
    assert rows["fp16"] == {
        "name": "fp16",
        "ratio": None,
        "step_memory_gib": None,
        "note": "needs CUDA",
    }
    assert "--compile" in rows["compiled"]["note"]
    assert document["largest_batch"] is None
    assert document["cudnn_benchmark"] is None
    assert document["warnings"] == []
    # At least the gradients of all parameters are there at once.
    parameters = sum(value.numel() for value in trial(tmp_path).network.detector.parameters())
    assert document["step_memory_gib"] > 4 * parameters / 2**30
    for table in report.tables(made(step=found), "cpu"):
        assert {len(row) for row in table.rows} == {len(table.columns)}
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert ALWAYS - {"other"} <= names


def test_two_recipes_are_compared_step_by_step(
    tmp_path: Path, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backbone(options: Any) -> torch.nn.Module:
        """A second for each image."""
        network = thin_vgg(options)
        network.register_forward_pre_hook(lambda _, given: ticks.pass_by(len(given[0])))
        return network

    monkeypatch.setitem(ssd.BACKBONES, "vgg16", backbone)
    deeper = tmp_path / "deeper"
    deeper.mkdir()
    first, second = tiny(tmp_path), tiny(deeper, "data.batch_per_rank=16")
    ratio = compare_steps(first, second, CPU, QUIET, seconds=0.3)
    assert ratio.median == pytest.approx(8, rel=0.02)  # as many images
    assert ratio.low <= ratio.median <= ratio.high


def test_few_steps_behind_a_long_queue_are_doubted(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, "data.workers=2", "data.prefetch_factor=3")
    assert queue_warnings(recipe, 13) == []
    (sentence,) = queue_warnings(recipe, 12)
    assert "keep 6 batches ready" in sentence
    assert queue_warnings(tiny(tmp_path), 3) == []


@pytest.mark.parametrize(
    ("path", "complaint"),
    [("trace.txt", "ends in .json"), ("nowhere/trace.json", "no such folder")],
)
def test_a_trace_that_cannot_be_written_is_refused_early(path: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        check_trace(Path(path))


def test_the_trace_is_of_a_few_steps_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = trial(tmp_path)
    write_trace(trainer, endless_batches(trainer), tmp_path / "t.json.gz")
    assert trainer.position.step == STEPS
    assert (tmp_path / "t.json.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert capfd.readouterr().err == ""


def test_epochs_follow_each_other(tmp_path: Path) -> None:
    trainer = trial(tmp_path)
    seen = []
    for found in islice(endless_batches(trainer), 9):  # four batches an epoch
        seen.append(found.indices)
        trainer.position.batch += 1
    assert trainer.position.epoch == 2
    assert sorted(sum(seen[:4], ())) == sorted(sum(seen[4:8], ())) == list(range(8))
    assert seen[:4] != seen[4:8]
