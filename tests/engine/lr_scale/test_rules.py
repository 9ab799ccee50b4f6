"""Batch size and what follows from it, against the notes and closed forms."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.data.plan import training_plan
from detcli.engine.lr_scale.base import COMMON, StepBatch
from detcli.engine.lr_scale.rules import (
    RULES,
    epochs_of,
    scale,
    scaled_decay,
    scaled_lr,
    scaled_steps,
    steps_per_epoch,
)
from detcli.engine.train.learning_rate import effective_learning_rate
from detcli.recipe.sections.optim import Optim

SGD, ADAMW = COMMON["sgd"], COMMON["adamw"]
SIZES = st.integers(1, 64)
RATES = st.floats(1e-6, 1.0)


def step_of(images):
    return StepBatch(1, images)


@pytest.mark.parametrize(
    ("gpus", "imgs_per_gpu", "lr"), [(8, 2, 0.02), (2, 2, 0.005), (4, 1, 0.005), (4, 2, 0.01)]
)
def test_the_rates_of_note_001_exactly(gpus, imgs_per_gpu, lr):
    found = scale(SGD, StepBatch(gpus, imgs_per_gpu), None)
    assert found.lr == lr
    assert found.formula == f"{lr} = 0.02 x {gpus * imgs_per_gpu} / 16"
    assert found.lr == pytest.approx(0.02 / 8 * gpus * (imgs_per_gpu / 2))


@given(RATES, SIZES, SIZES, SIZES, st.sampled_from(RULES))
@settings(max_examples=60)
def test_scaling_in_two_steps_is_scaling_in_one(lr, first, second, third, rule):
    halfway = scaled_lr(lr, first, second, rule)
    expected = scaled_lr(lr, first, third, rule)
    assert scaled_lr(halfway, second, third, rule) == pytest.approx(expected, rel=1e-12)


@given(RATES, SIZES, st.integers(1, 8), st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=60)
def test_rules_by_hand_and_in_the_engine(lr, base_batch, gpus, per_gpu, accumulate):
    ratio = gpus * per_gpu * accumulate / base_batch
    by_hand = {"linear": lr * ratio, "sqrt": lr * math.sqrt(ratio), "none": lr}
    for rule, expected in by_hand.items():
        base = SGD._replace(lr=lr, batch=base_batch, rule=rule)
        found = scale(base, StepBatch(gpus, per_gpu, accumulate), None)
        engine = effective_learning_rate(
            Optim(lr=lr, lr_batch=base_batch, lr_rule=rule),
            batch_per_rank=per_gpu,
            world_size=gpus,
            accumulate=accumulate,
            explicit=False,
        )
        assert found.lr == engine.lr == expected


@given(st.integers(1, 300), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=60)
def test_steps_of_an_epoch_are_those_of_the_loader(images, gpus, per_gpu, accumulate):
    plan = training_plan(None, images, seed=0, epoch=0, batch=per_gpu, world_size=gpus)
    batches = len(plan[::gpus])
    steps = sum(number % accumulate == 0 or number == batches for number in range(1, batches + 1))
    assert steps_per_epoch(images, StepBatch(gpus, per_gpu, accumulate)) == steps


def test_epochs_are_iterations_times_batch_over_images():
    assert epochs_of(90_000, 16, 118_287) == pytest.approx(12.17, abs=0.01)
    length = scale(SGD, StepBatch(8, 2), 118_272).length
    assert (length.steps_per_epoch, length.iterations) == (7392, 88_704)
    assert length.milestones == (8 * 7392, 11 * 7392)
    assert epochs_of(length.iterations, 16, 118_272) == 12
    assert length.warmup_epochs == pytest.approx(500 * 16 / 118_272)


@given(st.integers(1, 5000), SIZES, SIZES)
@settings(max_examples=60)
def test_warm_up_covers_the_same_images(steps, base_batch, batch):
    scaled = scaled_steps(steps, base_batch, batch)
    assert abs(scaled * batch - steps * base_batch) <= batch / 2 or scaled == 1
    assert scaled_steps(0, base_batch, batch) == 0


@given(st.floats(0.5, 0.99999), SIZES, SIZES)
@settings(max_examples=60)
def test_an_average_forgets_as_much_over_the_same_images(decay, base_batch, batch):
    """What is left of the first weights after lcm(both) images is the same."""
    images = math.lcm(base_batch, batch)
    left = decay ** (images // base_batch)
    scaled = scaled_decay(decay, base_batch, batch) ** (images // batch)
    assert scaled == pytest.approx(left, rel=1e-9)


def noted(found, key):
    return next(each for each in found.adjustments if each.key == key)


def number_after(text, word):
    return float(text.split(word)[1].split()[0].rstrip(";,"))


@pytest.mark.parametrize("batch", [2, 64])
@pytest.mark.parametrize(
    ("base", "rule", "word"),
    [
        (SGD, "sqrt", "same with"),
        (SGD, "none", "same with"),
        (ADAMW, "none", "same with"),
        (ADAMW, "sqrt", "(Wang and Aitchison 2024) would be"),
    ],
)
def test_the_named_weight_decay_shrinks_weights_alike_in_an_epoch(base, rule, word, batch):
    base = base._replace(rule=rule, weight_decay=0.05)
    found = scale(base, step_of(batch), None)
    decay = noted(found, "optim.weight_decay")
    assert decay.value == decay.base == 0.05
    named, images = number_after(decay.why, word), 16 * 64
    at_base = (1 - base.lr * 0.05) ** (images / 16)
    assert (1 - found.lr * named) ** (images / batch) == pytest.approx(at_base, rel=1e-3)


def test_the_linear_rule_keeps_the_weight_decay_of_an_epoch():
    found = scale(SGD._replace(weight_decay=0.01), step_of(4), None)
    assert found.lr * 0.01 * (1600 / 4) == pytest.approx(0.02 * 0.01 * (1600 / 16))
    assert "leaves the decay of an epoch" in noted(found, "optim.weight_decay").why


def test_betas_of_malladi_are_named_where_they_exist():
    assert "[0.8, 0.998]" in noted(scale(ADAMW, step_of(32), None), "optim.betas").why
    assert "too much" in noted(scale(ADAMW, step_of(256), None), "optim.betas").why
    linear = scale(ADAMW._replace(rule="linear"), step_of(32), None)
    assert [each.key for each in linear.adjustments] == [
        "schedule.warmup_steps",
        "optim.weight_decay",
    ]


def test_nothing_changes_at_the_base():
    for base in (SGD, ADAMW):
        found = scale(base, StepBatch(8, 2), 118_287)
        assert (found.lr, found.adjustments, found.warnings) == (base.lr, (), ())


def test_the_table_holds_base_and_choice_in_order():
    found = scale(SGD._replace(ema_decay=0.9998, ema_warmup_steps=2000), step_of(6), 1000)
    sizes = [row.batch for row in found.table]
    assert sizes == [1, 2, 4, 6, 8, 16, 32, 64, 128, 256]
    for row, size in zip(found.table, sizes, strict=True):
        assert row.linear == scaled_lr(0.02, 16, size, "linear")
        assert row.sqrt == scaled_lr(0.02, 16, size, "sqrt")
        assert row.ema_decay == pytest.approx(0.9998 ** (size / 16))
        assert row.iterations == 12 * math.ceil(1000 / size)


AT_BASE = StepBatch(8, 2)
WARNED = {
    "no warm-up": (SGD._replace(warmup_steps=0), step_of(32), None),
    "is steep": (SGD, step_of(128), None),
    "up to 256": (SGD, step_of(512), None),
    "linear rule with AdamW": (ADAMW._replace(rule="linear"), step_of(32), None),
    "rule none": (SGD._replace(rule="none"), step_of(32), None),
    "plateau": (SGD._replace(schedule="plateau", milestones=()), step_of(8), None),
    "clipped": (SGD._replace(clips=True), step_of(8), None),
    "statistics of 1 image:": (SGD._replace(batch_stats="bn"), StepBatch(16, 1), None),
    "statistics of 2 images:": (SGD._replace(batch_stats="sync_bn"), StepBatch(2, 1, 8), None),
    "some come twice": (SGD, AT_BASE, 10),
    "large batches need more epochs": (SGD, step_of(32), 500),
    "the warm-up takes": (SGD, AT_BASE, 500),
}


@pytest.mark.parametrize("word", WARNED)
def test_warnings(word):
    base, step, images = WARNED[word]
    assert len([line for line in scale(base, step, images).warnings if word in line]) == 1
    plenty = SGD._replace(warmup_steps=1000)
    assert scale(plenty, AT_BASE, 100_000).warnings == ()


def test_batch_norm_is_only_named_where_it_sees_few_images():
    for norm, step in itertools.product(("bn", "sync_bn"), (StepBatch(4, 4), StepBatch(1, 16))):
        assert scale(SGD._replace(batch_stats=norm), step, None).warnings == ()
    assert scale(SGD._replace(batch_stats="sync_bn"), StepBatch(8, 2), None).warnings == ()
