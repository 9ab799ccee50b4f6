"""Averages of the weights: their values, their batch norms, their rate, and exact resuming."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from detcli.engine.detect.evaluate import evaluate
from detcli.engine.run import checkpoint
from detcli.engine.train import modes as session
from detcli.engine.train.averaging import Ema, Swa, reestimate_norms
from detcli.engine.train.build import prepare, schedule_of
from detcli.engine.train.schedule import AveragingRate
from detcli.errors import RecipeError
from detcli.layers.norm import FrozenBatchNorm2d
from detcli.recipe import load_recipe
from tests.engine.train.interrupt import (
    CPU,
    assert_same_state,
    history,
    last,
    run_interrupted,
    run_whole,
)
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    )


def test_average_follows_the_formula_and_copies_counters() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = Ema(model, decay=0.9, warmup_steps=10)
    expected = model[0].weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model[0].weight += 1.0
            model[1].num_batches_tracked += 1
            model[1].running_mean += 1.0
        ema.update(model, step)
        decay = 0.9 * (1 - math.exp(-step / 10))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
        torch.testing.assert_close(ema.model[0].weight, expected)
    assert ema.model[1].num_batches_tracked == 5
    assert 0 < ema.model[1].running_mean[0] < 5


def test_average_is_no_training_parameter() -> None:
    ema = Ema(nn.Linear(2, 2), decay=0.9, warmup_steps=10)
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert not ema.model.training


def test_first_update_takes_nearly_all_of_the_weights() -> None:
    model = nn.Linear(1, 1)
    ema = Ema(model, decay=0.9998, warmup_steps=2000)
    with torch.no_grad():
        model.weight.fill_(7.0)
    ema.update(model, 1)
    assert abs(ema.model.weight.item() - 7.0) < 0.01


def test_the_mean_of_the_models_that_are_due() -> None:
    model = network()
    swa = Swa(model, first_epoch=3, every=2)
    seen = []
    for epoch in range(1, 10):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        if swa.is_due(epoch):
            swa.update(model)
            seen.append((epoch, model[0].weight.detach().clone()))
    assert [epoch for epoch, _ in seen] == [5, 7, 9]
    assert swa.count == 3
    mean = torch.stack([weight for _, weight in seen]).mean(dim=0)
    torch.testing.assert_close(swa.model[0].weight, mean)
    assert not any(parameter.requires_grad for parameter in swa.model.parameters())


def test_words_say_which_weights_are_held() -> None:
    swa = Swa(network(), first_epoch=3, every=2)
    held = [swa.holds(epoch) for epoch in (3, 4, 5, 6, 9)]
    assert held[:2] == ["the last weights"] * 2
    assert held[2:4] == ["the mean of the weights of 1 epoch"] * 2
    assert held[4] == "the mean of the weights of 3 epochs"


def test_norms_are_reestimated_as_torch_does() -> None:
    model, batches = network(), torch.randn(5, 2, 3, 8, 8)
    theirs = copy.deepcopy(model)
    update_bn(batches, theirs)
    count = reestimate_norms(model, batches, lambda net, batch: net(batch))
    assert count == 2
    assert_same_state(model.state_dict(), theirs.state_dict())
    assert [part.momentum for part in model if isinstance(part, nn.BatchNorm2d)] == [0.1, 0.1]
    assert not model.training
    assert model[1].running_mean.abs().sum() > 0


def test_frozen_norms_keep_their_statistics_and_cost_no_pass() -> None:
    class Fixed(nn.Sequential):
        """Its norm stays in eval mode, as those of a backbone with norm_eval."""

        def train(self, mode: bool = True) -> Fixed:
            super().train(mode)
            self[1].eval()
            return self

    model = Fixed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), FrozenBatchNorm2d(4))
    before = copy.deepcopy(model.state_dict())

    def no_pass(net: nn.Module, batch: object) -> None:
        raise AssertionError("a pass over the images for nothing")

    assert reestimate_norms(model, torch.randn(2, 1, 3, 8, 8), no_pass) == 0
    assert_same_state(model.state_dict(), before)


def test_the_cycles_are_those_of_the_paper() -> None:
    rate = AveragingRate(first=20, cycle=5, high=1.0, low=0.1)
    for i in range(1, 16):  # the paper counts iterations from 1
        t = ((i - 1) % 5 + 1) / 5
        assert rate.factor(20 + i - 1) == pytest.approx((1 - t) * 1.0 + t * 0.1)


@pytest.mark.parametrize("name", ["step", "cosine"])
def test_the_schedule_is_left_alone_until_averaging_begins(name: str, tmp_path: Path) -> None:
    path = write_tiny(tmp_path, schedule={"name": name, "epochs": 8})
    plain = schedule_of(load_recipe(path).recipe, 10)
    constant, cyclic = (
        schedule_of(load_recipe(path, [f"train.swa={{start: 0.5, {more}}}"]).recipe, 10)
        for more in ("lr_ratio: 0.3", "every: 2, course: cyclic, lr_ratio: 1, min_lr_ratio: 0.2")
    )
    for plan in (constant, cyclic):
        assert [plan.factor(step) for step in range(40)] == [plain.factor(s) for s in range(40)]
    assert [constant.factor(step) for step in range(40, 80)] == pytest.approx([0.3] * 40)
    assert [cyclic.factor(step) for step in (59, 79)] == pytest.approx([0.2, 0.2])
    assert cyclic.factor(40) == cyclic.factor(60) == pytest.approx(1 - 0.8 / 20)


def test_a_plateau_no_longer_speaks_while_averaging() -> None:
    from tests.engine.train.test_schedule import schedule

    rate = AveragingRate(first=20, cycle=10, high=1.0, low=1.0)
    plan = schedule(name="plateau", patience=0, averaging=rate)
    said = [plan.end_epoch({"AP": 0.5}, epoch) for epoch in (1, 2, 3, 4)]
    assert [line is None for line in said] == [True, False, True, True]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("{start: 0.75}", "after epoch 2 of 2 there are 0 epochs"),
        ("{start: 0.5}", "2 or more times 1"),
        ("{start: 0.0, every: 2}", "2 or more times 2"),
        ("{start: 0.0, min_lr_ratio: 0.1}", "acts only with course cyclic"),
        ("{start: 0.0, course: cyclic, lr_ratio: 0.1, min_lr_ratio: 0.2}", "expected below"),
    ],
)
def test_what_would_average_nothing_is_refused(settings: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe(write_tiny(tmp_path), [f"train.swa={settings}"])


def test_two_averages_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="ema is set too"):
        load_recipe(write_tiny(tmp_path), ["train.swa={start: 0.0}", "train.ema={}"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny recipe over four epochs, the last two of which are averaged, and its run."""
    folder = tmp_path_factory.mktemp("swa")
    recipe = write_tiny(
        folder,
        data={"shapes": {"num_train": 4, "num_val": 2}},
        schedule={"epochs": 4},
        train={"swa": {"start": 0.5}, "save_every": 1, "eval_every": 2},
        model={"score_threshold": 0.01},
    )
    return recipe, run_whole(recipe, folder / "whole")


def test_interrupted_and_resumed_equals_uninterrupted(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first model was taken in, in the middle of an epoch."""
    recipe, folder = whole
    run = run_interrupted(recipe, tmp_path / "run", 7, monkeypatch)
    assert history(run) == history(folder)
    mine, theirs = last(run), last(folder)
    assert mine["swa"]["count"] == theirs["swa"]["count"] == 2
    assert_same_state(mine["swa"]["model"], theirs["swa"]["model"])
    assert_same_state(mine["model"], theirs["model"])


def test_the_checkpoint_says_and_gives_the_mean(whole: tuple[Path, Path]) -> None:
    recipe, folder = whole
    content = checkpoint.load(folder / "last.pt")
    assert content["holds"] == "the mean of the weights of 2 epochs"
    weights = checkpoint.weights_of(content)
    assert weights is content["swa"]["model"]
    assert weights.keys() == content["model"].keys()
    assert not torch.equal(weights["head.box.weight"], content["model"]["head.box.weight"])
    # What was logged for the last epoch is what these weights score.
    loaded = load_recipe(recipe).recipe
    trainer = prepare(loaded, folder, CPU, session.RunLog(quiet=True), explicit_lr=False)
    trainer.network.detector.load_state_dict(weights)
    again = evaluate(
        trainer.network.detector,
        loaded,
        trainer.data.eval_records,
        trainer.data.eval_loader,
        CPU,
        trainer.run.log,
    )
    logged = [line for line in history(folder) if line["kind"] == "eval"][-1]
    assert again is not None
    assert again.metrics.metrics["AP"] == logged["AP"]


def test_the_log_says_what_is_averaged(whole: tuple[Path, Path]) -> None:
    log = (whole[1] / "log.txt").read_text()
    assert re.search(r"swa: from epoch 3 .* 0\.5 x lr, .* 2 epochs", log)
    assert "epoch 4: the mean of the weights of 2 epochs is evaluated and saved; 20 batch" in log
    assert "last.pt holds the mean of the weights of 2 epochs" in log
    rates = [line["lr"] for line in history(whole[1]) if line["kind"] == "train"]
    assert rates[4:] == pytest.approx([0.005] * 4)


def test_without_training_norms_there_is_no_pass(tmp_path: Path) -> None:
    recipe = write_tiny(
        tmp_path,
        data={"shapes": {"num_train": 2, "num_val": 2}},
        model={"backbone": {"norm_eval": True}},
        train={"swa": {"start": 0.0}, "eval_every": 0},
    )
    run = run_whole(recipe, tmp_path / "run")
    assert "no trainable batch norm to re-estimate" in (run / "log.txt").read_text()
