"""The tricks of schedule, optimiser, precision and loading: each reaches what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detcli.engine.run.log import RunLog
from detcli.engine.train import build as prepare_module
from detcli.engine.train.build import decide_cudnn_benchmark, prepare, schedule_of
from detcli.engine.train.step import compute_losses
from detcli.engine.train.trainer import Trainer
from detcli.errors import RecipeError
from detcli.recipe import Recipe, load_recipe
from tests.engine.train.interrupt import CPU
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "data": {"shapes": {"num_train": 4, "num_val": 2}},
    "model": {"head": {"num_convs": 0}},
}


def recipe_of(folder: Path, *tricks: str, overrides: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(write_tiny(folder, **SMALL), overrides, tricks).recipe


def trainer_of(folder: Path, *tricks: str, overrides: tuple[str, ...] = ()) -> Trainer:
    recipe = recipe_of(folder, *tricks, overrides=overrides)
    return prepare(recipe, folder, CPU, RunLog(folder, quiet=True), explicit_lr=False)


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text()


# Schedules


@pytest.mark.parametrize(
    ("trick", "epochs", "drops"), [("1x", 12, (8, 11)), ("2x", 24, (16, 22)), ("3x", 36, (27, 33))]
)
def test_lengths_are_those_of_detectron(
    trick: str, epochs: int, drops: tuple[int, int], tmp_path: Path
) -> None:
    plan = schedule_of(recipe_of(tmp_path, trick), 10)
    assert plan.epochs == epochs
    at = [plan.factor(10 * epoch - 1) for epoch in drops] + [plan.factor(10 * epochs - 1)]
    assert at == pytest.approx([1, 0.1, 0.01])
    own = ("schedule.epochs=20", "schedule.milestones=[3]")  # what the recipe says goes
    assert recipe_of(tmp_path, trick, overrides=own).schedule.milestone_epochs == (3,)


def test_cosine_restarts_begins_three_times_at_the_top(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "cosine-restarts", overrides=("schedule.epochs=30",))
    plan = schedule_of(recipe, 10)  # 2 of the 300 steps are warm-up
    factors = [plan.factor(step) for step in range(300)]
    rises = [s for s in range(3, 300) if factors[s] > factors[s - 1]]
    assert len(rises) == 2
    assert all(factors[step] > 0.99 for step in rises)
    assert all(factors[step - 1] < 0.01 for step in rises)
    assert factors[-1] < 0.01
    with pytest.raises(RecipeError, match=r"needs schedule\.warmup to be linear or constant"):
        recipe_of(tmp_path, "cosine-restarts", overrides=("schedule.warmup=none",))


def test_warmup_rises_over_500_steps(tmp_path: Path) -> None:
    plan = schedule_of(recipe_of(tmp_path, "warmup", overrides=("schedule.epochs=1000",)), 2)
    assert [plan.factor(step) for step in (0, 250, 500)] == pytest.approx([0.001, 0.5005, 1.0])


@pytest.mark.parametrize(("trick", "monitor"), [("plateau", "AP"), ("plateau-loss", "loss")])
def test_plateau_with_the_large_rate_of_the_notes(trick: str, monitor: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, trick, "large-lr")
    optim, schedule = recipe.optim, recipe.schedule
    assert (optim.lr, optim.lr_batch, optim.clip_norm) == (0.02, 16, 20.0)
    assert (schedule.name, schedule.monitor, recipe.train.val_loss) == (
        "plateau",
        monitor,
        monitor == "loss",
    )
    plan = schedule_of(recipe, 10)
    worse = {"AP": 0.1, "loss": 5.0}
    assert [plan.end_epoch(worse, epoch) is None for epoch in range(1, 6)] == [True] * 4 + [False]
    assert plan.factor(100) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "pair",
    [
        ("cosine", "cosine-restarts"),
        ("plateau", "plateau-loss"),
        ("cosine-restarts", "plateau"),
        ("1x", "3x"),
        ("sgd", "adam"),
        ("sgd", "large-lr"),
        ("grad-clip", "grad-clip-value"),
        ("swa", "ema"),
        ("low-precision", "low-precision-fp16"),
    ],
)
def test_two_choices_of_one_thing_exclude_each_other(pair: tuple[str, str], tmp_path: Path) -> None:
    for first, second in (pair, pair[::-1]):
        with pytest.raises(RecipeError, match=f"tricks {first} and {second} exclude each other"):
            recipe_of(tmp_path, first, second, overrides=("schedule.epochs=8",))


# Optimisers and clipping


@pytest.mark.parametrize(
    ("trick", "kind", "lr", "rest"),
    [
        ("sgd", torch.optim.SGD, 0.01 * 2 / 16, {"momentum": 0.9, "weight_decay": 0.0001}),
        ("sgd-from-scratch", torch.optim.SGD, 0.02 * 2 / 16, {"momentum": 0.9}),
        ("adam", torch.optim.AdamW, 0.0001 * (2 / 16) ** 0.5, {"betas": (0.9, 0.999)}),
    ],
)
def test_optimisers_come_with_their_rate(
    trick: str, kind: type, lr: float, rest: dict[str, Any], tmp_path: Path
) -> None:
    trainer = trainer_of(tmp_path, trick)
    assert isinstance(trainer.network.optimizer, kind)
    assert trainer.learning_rate.lr == pytest.approx(lr)
    assert {key: trainer.network.optimizer.param_groups[0][key] for key in rest} == rest


def test_the_rate_for_random_weights_needs_random_weights() -> None:
    with pytest.raises(RecipeError, match=r"needs model\.backbone\.weights to be null"):
        load_recipe("atss_r50", tricks=["sgd-from-scratch"])
    loaded = load_recipe("atss_r50", tricks=["from-scratch", "sgd-from-scratch"])
    assert (loaded.recipe.optim.lr, loaded.recipe.optim.weight_decay) == (0.02, 0.0)


def test_large_batch_takes_the_rate_along(tmp_path: Path) -> None:
    plain, large = trainer_of(tmp_path), trainer_of(tmp_path, "large-batch")
    assert large.learning_rate.batch == 4 * plain.learning_rate.batch
    assert large.learning_rate.lr == pytest.approx(4 * plain.learning_rate.lr)
    assert "linear rule: 0.01 x 8 / 2" in log_of(tmp_path)
    with pytest.raises(RecipeError, match=r"needs optim\.lr_rule to be linear or sqrt"):
        recipe_of(tmp_path, "large-batch", overrides=("optim.lr_rule=none",))


@pytest.mark.parametrize(("trick", "bound"), [("grad-clip", "norm"), ("grad-clip-value", "value")])
def test_clipping_acts_on_the_gradients(
    trick: str, bound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detcli.engine.train.step import take_step

    trainer = trainer_of(tmp_path, trick)
    seen: list[torch.Tensor] = []

    def look(*_: Any) -> None:
        grads = [
            value.grad for value in trainer.network.detector.parameters() if value.grad is not None
        ]
        seen.append(torch.cat([grad.flatten() for grad in grads]))

    for parameter in trainer.network.detector.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    monkeypatch.setattr(trainer.network.optimizer, "step", look)
    take_step(trainer)
    if bound == "norm":
        assert seen[0].double().norm().item() == pytest.approx(20.0, rel=1e-3)
    else:
        assert seen[0].max().item() == 1.0


def test_from_scratch_freezes_nothing_and_decays_nothing(tmp_path: Path) -> None:
    frozen = ("model.backbone.frozen_stages=2", "optim.weight_decay=0.0001")
    path = write_tiny(tmp_path, **SMALL)
    plain = load_recipe(path, frozen).recipe
    assert plain.model.backbone.frozen_stages == 2
    for name in ("atss_r50", "fcos_r50_caffe"):
        backbone = load_recipe(name, tricks=["from-scratch"]).recipe.model.backbone
        assert (backbone.weights, backbone.frozen_stages, backbone.norm) == (None, 0, "gn")
    trainer = trainer_of(tmp_path, "from-scratch")
    assert all(parameter.requires_grad for parameter in trainer.network.detector.parameters())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in trainer.network.detector.modules())
    assert {group["weight_decay"] for group in trainer.network.optimizer.param_groups} == {0.0}


# Precision, memory format, loading


@pytest.mark.parametrize(
    ("trick", "dtype"), [("low-precision", torch.bfloat16), ("low-precision-fp16", torch.float16)]
)
def test_low_precision_from_the_first_step(trick: str, dtype: torch.dtype, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, trick)
    assert trainer.network.scaler.is_enabled() == (dtype == torch.float16)
    seen = []
    handle = trainer.network.detector.head.class_logits.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    losses = compute_losses(
        trainer.run.recipe, trainer.network, torch.randn(1, 3, 64, 64), [one_target()]
    )
    handle.remove()
    assert set(seen) == {dtype}
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert "on the CPU it saves memory" in log_of(tmp_path)


def one_target() -> Any:
    from tests.models.specs import target

    return target([[10, 12, 40, 60]], [0], (64, 64))


def test_channels_last_reaches_the_convolutions(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "channels-last")
    weight = trainer.network.detector.head.class_logits.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert "memory not pinned, channels last" in log_of(tmp_path)


def test_loading_tricks_reach_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CUDA device, but for the pinning itself, which needs one."""
    from detcli.data import loader as loader_module

    options: dict[str, Any] = {}

    class Recorded(Exception):
        pass

    def record(*_: Any, **keywords: Any) -> None:
        options.update(keywords)
        raise Recorded

    monkeypatch.setattr(loader_module, "DataLoader", record)
    path = write_tiny(
        tmp_path,
        data={**SMALL["data"], "workers": 2, "pin_memory": False, "persistent_workers": False},
    )
    tricks = ("pin-memory", "prefetch", "persistent-workers")
    recipe = load_recipe(path, tricks=tricks).recipe
    device = torch.device("cuda")
    ranks = type(CPU)(0, 1, device)
    records = prepare_module.read_split(recipe, "train")
    with pytest.raises(Recorded):
        next(iter(prepare_module.build_train_loader(recipe, records, ranks).start(0)))
    reached = {key: options[key] for key in ("pin_memory", "prefetch_factor", "persistent_workers")}
    assert reached == {"pin_memory": True, "prefetch_factor": 4, "persistent_workers": True}


def test_prefetching_without_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="acts only with workers of 1 or more"):
        recipe_of(tmp_path, "prefetch")


def test_cudnn_benchmark_is_switched_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where input shapes change; `auto` would leave it off then."""
    ranks = type(CPU)(0, 1, torch.device("cuda"))
    changing = ("data.resize={short: [32, 64], long: 64}",)
    states = []
    for tricks in ((), ("cudnn-benchmark",)):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
        recipe = recipe_of(tmp_path, *tricks, overrides=changing)
        records = prepare_module.read_split(recipe, "train")
        decide_cudnn_benchmark(recipe, records, ranks, RunLog(tmp_path, quiet=True))
        states.append(torch.backends.cudnn.benchmark)
    assert states == [False, True]
    assert "cudnn.benchmark on (input shapes vary" in log_of(tmp_path)


def test_ram_cache_is_counted(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "ram-cache")
    batch = next(iter(trainer.data.train_loader.start(0)))
    assert batch.fired["ram_cache"] == 2
    assert trainer.data.train_loader.dataset.augmentations[0] == "ram_cache"
    assert "data.cache: 6 decoded images take" in log_of(tmp_path)
