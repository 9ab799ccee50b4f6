"""Variants of a step: each the recipe with one key changed, and measured on the same batches."""

from __future__ import annotations

import functools
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detcli.engine.profile import cuda, variants
from detcli.engine.profile.cuda import (
    LIMIT,
    batch_fits,
    largest,
    measure_autotune,
    search_ms,
    shape_warnings,
    unseen_batch,
)
from detcli.engine.profile.timing import Spread, paired_ratios, spread
from detcli.engine.profile.trial import evenly, like, repeated
from detcli.engine.profile.variants import Subject, Variant, measure_variants, variants_of
from detcli.engine.run.batch import network_input
from detcli.engine.train import compiled
from detcli.engine.train.loop import endless_batches, train_batch
from detcli.engine.train.step import compute_losses
from detcli.engine.train.trainer import Trainer
from detcli.errors import DivergedError, UsageError
from detcli.recipe import diff_recipes, override_recipe
from tests.engine.profile.trials import QUIET, thin_network, tiny, trial
from tests.ticks import TICK_SECONDS, Ticks

__all__ = ["thin_network"]  # a fixture of every test here

CUDA = torch.device("cuda")
CHANGED = {
    "float32": "train.amp",
    "bf16": "train.amp",
    "fp16": "train.amp",
    "channels last": "train.channels_last",
    "channels first": "train.channels_last",
    "cudnn.benchmark on": "train.cudnn_benchmark",
    "cudnn.benchmark off": "train.cudnn_benchmark",
    "compiled": "train.compile",
    "not compiled": "train.compile",
}


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("other", [False, True])
def test_a_variant_is_one_changed_key(tmp_path: Path, amp: str, other: bool) -> None:
    recipe = tiny(
        tmp_path, f"train.amp={amp}", f"train.channels_last={other}", f"train.compile={other}"
    )
    found = list(variants_of(recipe, CUDA, benchmark=other, compile_too=True))
    assert len(found) == 5
    for variant in found:
        assert variant.reason is None
        changed = override_recipe(recipe, [variant.override], "test")
        assert [key for key, _, _ in diff_recipes(recipe, changed)] == [CHANGED[variant.name]]


def test_what_the_cpu_cannot_do_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "_convolution_seconds", {torch.float32: 1, torch.bfloat16: 7}.get)
    found = variants_of(tiny(tmp_path), torch.device("cpu"), benchmark=False, compile_too=False)
    reasons = {variant.name: variant.reason for variant in found}
    assert reasons["fp16"] == reasons["cudnn.benchmark on"] == "needs CUDA"
    assert "--compile" in str(reasons["compiled"])
    assert "7 times" in str(reasons["bf16"])
    assert reasons["channels last"] is None
    monkeypatch.setattr(variants, "_convolution_seconds", lambda dtype: 1.0)
    assert variants.slow_convolution(torch.device("cpu")) is None


def held_of(trainer: Trainer) -> Subject:
    return Subject("base", trainer, list(islice(endless_batches(trainer), 2)), benchmark=False)


def test_a_trial_like_another_computes_the_same(tmp_path: Path) -> None:
    first = trial(tmp_path, train={"ema": {}})
    second = like(first, override_recipe(first.run.recipe, ["train.channels_last=true"], "test"))
    weights = [value for value in second.network.detector.parameters() if value.dim() == 4]
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)
    batch = next(endless_batches(first))
    losses = []
    for each in (first, second):
        images, targets = network_input(each.run.recipe, batch, each.run.ranks.device)
        losses.append(compute_losses(each.run.recipe, each.network, images, targets))
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-4, atol=1e-5)
    mine = {id(value) for value in first.network.detector.parameters()}
    assert not mine & {id(value) for value in second.network.detector.parameters()}
    train_batch(second, batch)
    assert (first.position.step, second.position.step) == (0, 1)


def test_held_batches_go_on_from_epoch_to_epoch(tmp_path: Path) -> None:
    trainer = trial(tmp_path)  # four batches an epoch
    held = list(islice(endless_batches(trainer), 3))
    epochs = []
    for position, batch in enumerate(islice(repeated(trainer, held), 9)):
        assert batch is held[position % 3]
        train_batch(trainer, batch)
        epochs.append(trainer.position.epoch)
    assert epochs == [0] * 4 + [1] * 4 + [2]
    assert trainer.position.batch == 1


def test_variants_that_fail_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*arguments: object) -> None:
        raise UsageError("train.compile: there is no compiler\nsecond line")

    def diverges(self: Subject) -> None:
        if self.name == "bf16":
            raise DivergedError("nan")

    monkeypatch.setattr("detcli.engine.train.build.compiled", no_compiler)
    monkeypatch.setattr(Subject, "warm_up", diverges)
    rows = measure_variants(
        held_of(trial(tmp_path)),
        [
            Variant("compiled", "train.compile=true"),
            Variant("bf16", "train.amp=bf16"),
            Variant("channels last", "train.channels_last=true"),
            Variant("fp16", "train.amp=fp16", "needs CUDA"),
        ],
        QUIET,
        seconds=0.0,
    )
    assert [row.name for row in rows] == ["base", "compiled", "bf16", "channels last", "fp16"]
    assert [row.note for row in rows] == [
        None,
        "train.compile: there is no compiler",
        "the loss of random weights is not finite",
        None,
        "needs CUDA",
    ]
    for row in rows:
        assert (row.ratio is None) == (row.step_memory_gib is None) == (row.note is not None)


def test_a_compiled_step_is_measured(
    tmp_path: Path, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    eager = functools.partial(torch.compile, backend="eager")  # without the code generator
    monkeypatch.setattr(compiled.torch, "compile", eager)
    variant = Variant("compiled", "train.compile=true")
    base, row = measure_variants(held_of(trial(tmp_path)), [variant], QUIET, seconds=0.0)
    assert row.note is None
    assert row.ratio is not None
    assert row.ratio.median == pytest.approx(1.0)  # a tick in each turn of both
    assert base.ratio == spread([1.0])


def test_sides_of_a_pair_share_what_slows_the_machine_down() -> None:
    base, other = [1.0, 5.0, 1.0, 20.0], [2.0, 10.0, 2.0, 40.0]
    assert paired_ratios(base, other) == spread([2.0])
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(median=3.0, low=2.0, high=4.0)
    assert spread([1.0, 2.0]).text(2) == "1.50 (1.25-1.75)"


@given(st.integers(0, LIMIT + 50), st.integers(1, LIMIT))
def test_largest_finds_the_border(limit: int, start: int) -> None:
    asked: list[int] = []

    def fits_at(count: int) -> bool:
        asked.append(count)
        return count <= limit

    assert largest(fits_at, start) == min(limit, LIMIT)
    assert len(asked) <= 22


def test_a_batch_fits_unless_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trial(tmp_path)
    assert cuda.largest_batch(trainer) is None
    before = {name: value.clone() for name, value in trainer.network.detector.state_dict().items()}
    assert batch_fits(trainer, 3)

    def too_much(recipe: object, network: object, images: torch.Tensor, targets: object) -> None:
        assert images.shape[0] == 5
        raise torch.OutOfMemoryError

    monkeypatch.setattr("detcli.engine.train.memory_probe.compute_losses", too_much)
    assert not batch_fits(trainer, 5)
    assert all(
        torch.equal(before[name], value)
        for name, value in trainer.network.detector.state_dict().items()
    )
    assert all(value.grad is None for value in trainer.network.detector.parameters())


def test_benchmark_with_changing_shapes_is_warned_of(tmp_path: Path) -> None:
    fixed = trial(tmp_path, "train.cudnn_benchmark='on'")
    assert shape_warnings(fixed.run.recipe, fixed.data.train_records) == []
    shapes = ["data.resize={short: [64, 96], long: 96}"]
    changing = override_recipe(fixed.run.recipe, shapes, "test")
    (sentence,) = shape_warnings(changing, fixed.data.train_records)
    assert "2 of whole images" in sentence
    auto = override_recipe(changing, ["train.cudnn_benchmark=auto"], "test")
    assert shape_warnings(auto, fixed.data.train_records) == []


def test_a_search_is_what_the_first_pass_takes_longer(
    tmp_path: Path, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trial(tmp_path, "data.resize={short: [128], long: 128}")
    assert measure_autotune(trainer) is None
    images, targets = unseen_batch(trainer)
    assert images.shape == (2, 3, 96, 96)
    for target in targets:
        assert target.size == (96, 96)
        assert len(target.boxes) > 0
        assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
        assert target.boxes.max() <= 96
    assert cuda._pass_seconds(trainer, images, targets) == pytest.approx(TICK_SECONDS)
    switched: list[bool] = []

    def seconds(*arguments: object) -> float:
        switched.append(torch.backends.cudnn.benchmark)
        return (9.0, 5.0, 2.0)[len(switched) - 1]

    monkeypatch.setattr(cuda, "_pass_seconds", seconds)
    assert search_ms(trainer, images, targets) == 3e3
    assert switched == [False, True, True]


def test_a_share_of_the_images_is_spread_over_all(tmp_path: Path) -> None:
    records = trial(tmp_path).data.train_records
    assert evenly(records, 8) is records
    assert evenly(records, 4).image_ids.tolist() == records.image_ids[::2].tolist()
    assert len(evenly(records, 3)) == 3


def test_turns_keep_to_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def remember(trainer: Trainer, batch: object) -> None:
        seen.append((trainer.run.recipe.train.amp, batch.indices))  # type: ignore[attr-defined]

    monkeypatch.setattr(variants, "train_batch", remember)
    monkeypatch.setattr(Subject, "memory_gib", lambda self: 0.0)
    base = held_of(trial(tmp_path))
    measure_variants(base, [Variant("bf16", "train.amp=bf16")], QUIET, seconds=0.0)
    turns = seen[2:]  # after one step each to warm up
    assert [amp for amp, _ in turns] == ["none", "bf16"] * (len(turns) // 2)
    assert [indices for _, indices in turns[::2]] == [indices for _, indices in turns[1::2]]
