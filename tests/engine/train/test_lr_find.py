"""The range test against a plain loop, and its readings against curves with known answers."""

import copy
import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detcli.engine.run.batch import network_input
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.train import lr_find
from detcli.engine.train.build import prepare
from detcli.engine.train.lr_find import RangeTest, range_test, smooth, steepest_descent
from detcli.errors import DivergedError, UsageError
from detcli.recipe import load_recipe
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

SGD = {"optim": {"momentum": 0.0, "weight_decay": 0.0}}


def trainer_in(folder, **changes):
    recipe = load_recipe(write_tiny(folder, **changes)).recipe
    ranks = Ranks(0, 1, torch.device("cpu"))
    return prepare(recipe, folder, ranks, RunLog(quiet=True), explicit_lr=False)


def plain_loop(trainer, lrs, accumulate):
    """Losses of SGD without momentum, written out."""
    model = copy.deepcopy(trainer.network.detector).train()
    batches, losses = trainer.data.train_loader.start(0), []
    for lr in lrs:
        total = 0.0
        for _ in range(accumulate):
            images, targets = network_input(trainer.run.recipe, next(batches), torch.device("cpu"))
            loss = sum(model.loss(model(images, targets), targets).values()) / accumulate
            loss.backward()
            total += loss.item()
        losses.append(total)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(lr * parameter.grad)
                    parameter.grad = None
    return losses


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_are_those_of_a_plain_loop(tmp_path, accumulate):
    trainer = trainer_in(tmp_path, **SGD, train={"accumulate": accumulate, "ema": {}})
    before = copy.deepcopy(trainer.network.detector.state_dict())
    files = sorted(tmp_path.rglob("*.*"))
    steps = 4 // accumulate
    found = range_test(trainer, steps=steps, min_lr=1e-4, max_lr=1e-2)
    np.testing.assert_allclose(found.lrs, np.geomspace(1e-4, 1e-2, steps))
    expected = plain_loop(trainer, found.lrs, accumulate)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-4)
    assert found.diverged_at is None
    assert found.batch == 2 * accumulate
    assert all(
        torch.equal(before[name], now)
        for name, now in trainer.network.detector.state_dict().items()
    )
    assert (trainer.position.step, trainer.learning_rate.lr) == (0, 0.01 * accumulate)
    assert sorted(tmp_path.rglob("*.*")) == files


@pytest.mark.parametrize("clip_norm", [None, 10.0])
def test_it_ends_where_the_loss_diverges(tmp_path, clip_norm):
    trainer = trainer_in(tmp_path, optim={"clip_norm": clip_norm})
    found = range_test(trainer, steps=12, min_lr=1e-3, max_lr=1e9)
    assert len(found.losses) < 12
    assert np.isfinite(found.losses).all()
    assert found.diverged_at in np.geomspace(1e-3, 1e9, 12)
    assert found.tenth == found.diverged_at / 10
    assert f"at {found.diverged_at:.3g}" in found.reason


def with_losses(monkeypatch, losses, steps):
    """The range test of a model that has these losses."""
    coming = iter(losses)
    monkeypatch.setattr(lr_find, "_trial", lambda trainer: trainer)
    monkeypatch.setattr(lr_find, "endless_batches", lambda trial: iter(()))
    monkeypatch.setattr(lr_find, "_step", lambda trial, batches, lr: next(coming))
    trainer = SimpleNamespace(
        run=SimpleNamespace(log=RunLog(quiet=True)), learning_rate=SimpleNamespace(batch=2)
    )
    return range_test(trainer, steps=steps, min_lr=1e-5, max_lr=1.0)


def test_it_stops_at_four_times_the_lowest_running_mean(monkeypatch):
    losses = [2.0] * 20 + [1.0] * 10 + [1.4**k for k in range(30)]
    means = []
    for last in range(len(losses)):
        weights = 0.9 ** np.arange(last, -1, -1)
        means.append(np.average(losses[: last + 1], weights=weights))
    stop = next(i for i, mean in enumerate(means) if mean > 4 * min(means[: i + 1]))
    found = with_losses(monkeypatch, losses, 60)
    assert found.losses.tolist() == losses[: stop + 1]
    assert found.diverged_at == pytest.approx(np.geomspace(1e-5, 1, 60)[stop])
    assert "4 times" in found.reason
    assert np.argmin(found.smoothed) in range(20, 32)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_it_stops_at_a_loss_that_is_not_finite(monkeypatch, broken):
    found = with_losses(monkeypatch, [3.0, 2.0, 1.0, broken, 1.0], 10)
    assert found.losses.tolist() == [3.0, 2.0, 1.0]
    assert found.diverged_at == pytest.approx(np.geomspace(1e-5, 1, 10)[3])
    with pytest.raises(DivergedError, match="rate is not the cause"):
        with_losses(monkeypatch, [broken], 10)


def test_smoothing_keeps_lines_in_the_middle_and_constants_everywhere():
    line = np.linspace(2, 5, 40)
    np.testing.assert_allclose(smooth(np.full(9, 3.0), 2.0), 3.0)
    np.testing.assert_allclose(smooth(line, 2.0)[6:-6], line[6:-6])


def test_smoothing_is_a_weighted_mean_of_neighbours():
    values, width = np.random.default_rng(0).normal(size=30), 1.5
    for at, got in enumerate(smooth(values, width)):
        near = [i for i in range(30) if abs(i - at) <= math.ceil(3 * width)]
        weights = [math.exp(-((i - at) ** 2) / (2 * width**2)) for i in near]
        assert got == pytest.approx(np.average(values[near], weights=weights))


def test_steepest_descent_of_a_logistic_curve():
    lrs = np.geomspace(1e-6, 1, 201)
    fall = 3 - 2 / (1 + np.exp(-2 * np.log(lrs / 1e-3)))
    assert steepest_descent(lrs, fall) == pytest.approx(1e-3, rel=1e-6)
    rising_again = fall + np.where(lrs > 0.1, np.log(lrs / 0.1) ** 2, 0.0)
    rising_again[-1] = 0.9 * rising_again[-2]  # a fall after the minimum is no descent
    assert steepest_descent(lrs, rising_again) == pytest.approx(1e-3, rel=1e-6)
    assert steepest_descent(lrs, 3 - fall) is None
    assert steepest_descent(lrs[:1], fall[:1]) is None


def found_with(steepest, diverged_at):
    lrs = np.geomspace(1e-5, 1, 11)
    losses = np.linspace(3, 1, 11)
    return RangeTest(lrs, losses, losses, steepest, diverged_at, 4, "a reason")


@pytest.mark.parametrize(
    ("steepest", "diverged_at", "suggestion", "said"),
    [
        (0.003, 0.5, 0.003, "steepest descent) at 4"),
        (0.2, 0.5, 0.05, "divergence point) at 4"),
        (None, 0.5, 0.05, "0.05"),
        (0.003, None, 0.003, "divergence point none"),
        (None, None, None, "widen the range"),
    ],
)
def test_the_suggestion_is_the_smaller_reading(steepest, diverged_at, suggestion, said):
    found = found_with(steepest, diverged_at)
    assert found.suggestion == suggestion
    assert said in " ".join(lr_find.sentences(found))
    assert found.lowest == 1
    assert "raise --max-lr" in lr_find.sentences(found)[0]


def test_files(tmp_path):
    found = found_with(0.003, 0.5)
    paths = lr_find.write_files(tmp_path / "new", found)
    assert [path.suffix for path in paths] == [".json", ".csv", ".png", ".svg"]
    document = json.loads(paths[0].read_text())
    assert document["suggestion"] == 0.003
    assert document["lr"] == found.lrs.tolist()
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == found.losses.tolist()
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    again = paths[3].read_bytes()
    lr_find.write_files(tmp_path / "new", found)
    assert paths[3].read_bytes() == again
    for name in (
        b"steepest descent: 0.003",
        b"lowest loss: 1",
        b"a tenth of the divergence point: 0.05",
    ):
        assert name in again


def test_it_is_not_for_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(lr_find.distributed, "start", lambda _: Ranks(0, 2, torch.device("cpu")))
    recipe = load_recipe(write_tiny(tmp_path)).recipe
    with pytest.raises(UsageError, match="one process, not in 2"):
        lr_find.run(recipe, 1, (10, 1e-5, 1.0), "cpu", None, quiet=True)
