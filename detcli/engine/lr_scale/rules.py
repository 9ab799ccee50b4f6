"""What another batch size does to a recipe: learning rate, warm-up, averages, length in steps.

Arithmetic only. `ratio` is always images per step here over images per step at the base.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from detcli.engine.lr_scale.base import Base, StepBatch
from detcli.errors import UsageError

RULES = ("linear", "sqrt", "none")
SOURCES = {
    "linear": "linear rule, Goyal et al. 2017 and note 001",
    "sqrt": "square root rule, Krizhevsky 2014, for Adam Malladi et al. 2022",
    "none": "rule none",
}
LARGEST_SHOWN = 256  # images per step: MegDet (Peng et al. 2018), linear rule with warm-up
FEW_STEPS = 1000
SHORT_WARMUP = 100  # steps
LONG_WARMUP = 0.25  # of all steps
TABLE_DOUBLINGS = 4  # of the base batch, up and down


class Adjustment(NamedTuple):
    """A setting that depends on the batch size: at the base, here, and why. `value` equals `base`
    where it is kept."""

    key: str
    base: float | tuple[float, float]
    value: float | tuple[float, float]
    why: str


class Length(NamedTuple):
    """A training run counted in epochs and in steps; milestones and warm-up likewise."""

    images: int
    epochs: int
    steps_per_epoch: int
    iterations: int
    milestones: tuple[int, ...]
    warmup_epochs: float


class TableRow(NamedTuple):
    """One batch size: the rate by both rules, and what else follows from it."""

    batch: int
    linear: float
    sqrt: float
    warmup_steps: int
    ema_decay: float | None
    iterations: int | None


class Scaled(NamedTuple):
    """The answer: the rate at this batch size, and what else is to be thought of."""

    lr: float
    base: Base
    step: StepBatch
    formula: str
    adjustments: tuple[Adjustment, ...]
    length: Length | None
    table: tuple[TableRow, ...]
    warnings: tuple[str, ...]


def scaled_lr(lr: float, base_batch: int, batch: int, rule: str) -> float:
    """The rate at `batch` images per step of one that holds at `base_batch`.

    linear: lr x batch / base_batch (Goyal et al. 2017, and note 001); sqrt: lr x the square root
    of that ratio (Krizhevsky 2014; for Adam Malladi et al. 2022); none: lr.
    """
    ratio = batch / base_batch
    return lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]


def lr_expression(lr: float, base_batch: int, batch: int, rule: str) -> str:
    """The calculation that `scaled_lr` does, as text."""
    factors = {
        "linear": f" x {batch} / {base_batch}",
        "sqrt": f" x sqrt({batch} / {base_batch})",
        "none": "",
    }
    return f"{lr:g}{factors[rule]}"


def scale(base: Base, step: StepBatch, images: int | None) -> Scaled:
    """Everything that follows from training with `step` what is tuned as in `base`; `images`: of
    the training set, None where that is not known."""
    lr = scaled_lr(base.lr, base.batch, step.images, base.rule)
    expression = lr_expression(base.lr, base.batch, step.images, base.rule)
    adjustments = (*_counted_in_steps(base, step.images), *_kept(base, step.images, lr))
    warmup_steps = scaled_steps(base.warmup_steps, base.tuned_batch, step.images)
    length = None if images is None else length_of(base, step, images, warmup_steps)
    return Scaled(
        lr=lr,
        base=base,
        step=step,
        formula=f"{lr:g}" if base.rule == "none" else f"{lr:g} = {expression}",
        adjustments=adjustments,
        length=length,
        table=tuple(_table(base, step.images, images)),
        warnings=(
            *_warmup_warnings(base, step.images, warmup_steps),
            *_rate_warnings(base, step.images),
            *_norm_warnings(base, step),
            *_length_warnings(base, step.images, length),
        ),
    )


def scaled_steps(steps: int, base_batch: int, batch: int) -> int:
    """As many steps at `batch` as hold the images of `steps` at `base_batch`; at least 1, but no
    steps stay none."""
    return max(1, round(steps * base_batch / batch)) if steps else 0


def scaled_decay(decay: float, base_batch: int, batch: int) -> float:
    """The decay of a moving average of weights that remembers as many images as before:
    decay^(batch / base_batch) (Busbridge et al. 2023)."""
    return float(decay ** (batch / base_batch))


def steps_per_epoch(images: int, step: StepBatch) -> int:
    """Optimiser steps of an epoch as the engine counts them: batches are filled up over all
    processes, and the last step of an epoch may accumulate fewer."""
    return math.ceil(math.ceil(images / (step.gpus * step.imgs_per_gpu)) / step.accumulate)


def epochs_of(iterations: int, batch: int, images: int) -> float:
    """epoch = iterations x batch / images (note 000)."""
    return iterations * batch / images


def asked_length(iterations: int, scaled: Scaled, images: int | None) -> dict[str, float]:
    """A number of iterations in epochs. Raises UsageError where the images are not counted."""
    if images is None:
        raise UsageError(f"--iterations {iterations}: of how many images? say --images N")
    return {"iterations": iterations, "epochs": epochs_of(iterations, scaled.step.images, images)}


def length_of(base: Base, step: StepBatch, images: int, warmup_steps: int) -> Length:
    """The schedule in steps: epochs do not depend on the batch size, steps do."""
    per_epoch = steps_per_epoch(images, step)
    return Length(
        images=images,
        epochs=base.epochs,
        steps_per_epoch=per_epoch,
        iterations=base.epochs * per_epoch,
        milestones=tuple(epoch * per_epoch for epoch in base.milestones),
        warmup_epochs=epochs_of(warmup_steps, step.images, images),
    )


def _counted_in_steps(base: Base, batch: int) -> Iterator[Adjustment]:
    """Settings that are to cover as many images as before."""
    tuned = base.tuned_batch
    if batch == tuned:
        return
    if base.warmup_steps:
        yield Adjustment(
            "schedule.warmup_steps",
            base.warmup_steps,
            scaled_steps(base.warmup_steps, tuned, batch),
            "as many images as before (Goyal et al. 2017 count the warm-up in epochs)",
        )
    if base.ema_decay is not None and base.ema_warmup_steps is not None:
        yield Adjustment(
            "train.ema.decay",
            base.ema_decay,
            scaled_decay(base.ema_decay, tuned, batch),
            f"decay^({batch} / {tuned}) (Busbridge et al. 2023)",
        )
        yield Adjustment(
            "train.ema.warmup_steps",
            base.ema_warmup_steps,
            scaled_steps(base.ema_warmup_steps, tuned, batch),
            "as many images as before, like the decay",
        )


def _kept(base: Base, batch: int, lr: float) -> Iterator[Adjustment]:
    """Settings for which papers disagree, or ask for what hardly anybody does."""
    if batch == base.batch:
        return
    if base.weight_decay:
        why = _weight_decay(base, batch / base.batch, lr / base.lr)
        yield Adjustment("optim.weight_decay", base.weight_decay, base.weight_decay, why)
    if base.optimizer == "adamw" and base.rule == "sqrt":
        why = _betas(base.betas, batch / base.batch)
        yield Adjustment("optim.betas", base.betas, base.betas, why)


def _weight_decay(base: Base, ratio: float, lr_ratio: float) -> str:
    """Both optimisers shrink weights by lr x decay a step, so an epoch by (lr x decay) x steps."""
    same_epoch = base.weight_decay * ratio / lr_ratio
    if base.optimizer == "sgd" and base.rule == "linear":
        return "kept: the linear rule leaves the decay of an epoch as it is (Goyal et al. 2017)"
    if base.optimizer == "sgd" or base.rule == "none":
        return f"kept; the decay of an epoch would stay the same with {same_epoch:.3g}"
    if base.rule == "linear":
        growing = base.weight_decay * ratio**0.5 / lr_ratio
        return (
            "kept: the decay of an epoch stays the same (Wang and Aitchison 2024); lr x decay as "
            f"the square root of the batch (Loshchilov and Hutter 2019) would be {growing:.3g}"
        )
    return (
        "kept: lr x decay grows as the square root of the batch (Loshchilov and Hutter 2019); the "
        f"same decay of an epoch (Wang and Aitchison 2024) would be {same_epoch:.3g}"
    )


def _betas(betas: tuple[float, float], ratio: float) -> str:
    """1 - ratio x (1 - beta), the part of Malladi et al.'s rule that is rarely followed."""
    first, second = (1 - ratio * (1 - beta) for beta in betas)
    if min(first, second) <= 0:
        return "kept; Malladi et al. 2022 scale 1 - beta with the batch, which is too much here"
    return (
        f"kept; the full rule of Malladi et al. 2022 has [{first:.4g}, {second:.4g}], "
        "and epsilon / sqrt(ratio)"
    )


def _table(base: Base, batch: int, images: int | None) -> Iterator[TableRow]:
    tuned = base.tuned_batch
    sizes = {base.batch * 2**k for k in range(TABLE_DOUBLINGS + 1)}
    sizes |= {base.batch >> k for k in range(TABLE_DOUBLINGS + 1) if base.batch % 2**k == 0}
    for size in sorted(sizes | {batch}):
        yield TableRow(
            batch=size,
            linear=scaled_lr(base.lr, base.batch, size, "linear"),
            sqrt=scaled_lr(base.lr, base.batch, size, "sqrt"),
            warmup_steps=scaled_steps(base.warmup_steps, tuned, size),
            ema_decay=(
                None if base.ema_decay is None else scaled_decay(base.ema_decay, tuned, size)
            ),
            iterations=None if images is None else base.epochs * math.ceil(images / size),
        )


def _warmup_warnings(base: Base, batch: int, warmup_steps: int) -> Iterator[str]:
    times = scaled_lr(1.0, base.batch, batch, base.rule)
    if times > 1 and not warmup_steps:
        yield (
            f"no warm-up, and a rate {times:g} times the base: large batches diverge early without "
            "one (Goyal et al. 2017)"
        )
    elif times > 1 and warmup_steps < SHORT_WARMUP:
        yield (
            f"a warm-up of {warmup_steps} steps to {times:g} times the base rate is steep; "
            "Goyal et al. 2017 take five epochs"
        )


def _rate_warnings(base: Base, batch: int) -> Iterator[str]:
    ratio = batch / base.batch
    if base.rule == "linear" and batch > LARGEST_SHOWN:
        yield (
            f"{batch} images per step: the linear rule has been shown for detectors up to "
            f"{LARGEST_SHOWN} (Peng et al. 2018); above, try --rule sqrt or --find"
        )
    if ratio == 1:
        return
    if base.optimizer == "adamw" and base.rule == "linear":
        yield (
            "linear rule with AdamW: it is derived for SGD; for Adam the square root is "
            "(Malladi et al. 2022), "
            f"{scaled_lr(base.lr, base.batch, batch, 'sqrt'):g} with --rule sqrt"
        )
    if base.rule == "none":
        yield f"rule none: the rate stays at {base.lr:g}, the batch is {ratio:g} times the base"
    if base.schedule == "plateau":
        yield (
            "schedule plateau: drops depend on what is measured, so they fall elsewhere than at "
            f"{base.batch} images per step; the rules assume the same course in epochs"
        )
    if base.clips:
        yield (
            "gradients are clipped: the gradient of a larger batch is shorter, so the clip acts "
            f"more or less often than at {base.batch} images per step; look at it again"
        )


def _norm_warnings(base: Base, step: StepBatch) -> Iterator[str]:
    synced = base.batch_stats == "sync_bn"
    seen = step.imgs_per_gpu * (step.gpus if synced else 1)
    if base.batch_stats is None or seen > 2:
        return
    cures = "norm_eval=true, norm=frozen_bn or gn"
    if not synced and step.gpus > 1:
        cures += ", or norm=sync_bn"
    images = "1 image" if seen == 1 else f"{seen} images"
    yield (
        f"batch norm with the statistics of {images}: too few, and neither the rate nor "
        f"accumulation fixes that (Wu and He 2018); in model.backbone: {cures}"
    )


def _length_warnings(base: Base, batch: int, length: Length | None) -> Iterator[str]:
    if length is None:
        return
    at_base = base.epochs * math.ceil(length.images / base.batch)
    if batch > length.images:
        yield f"a step takes {batch} images, the data set has {length.images}: some come twice"
    if batch > base.batch and length.iterations < FEW_STEPS:
        yield (
            f"{length.iterations} steps in {length.epochs} epochs, {at_base} at the base batch: "
            "large batches need more epochs, not only a larger rate (Hoffer et al. 2017)"
        )
    if length.warmup_epochs > LONG_WARMUP * length.epochs:
        yield (
            f"the warm-up takes {length.warmup_epochs:.3g} of {length.epochs} epochs: shorten it "
            "(schedule.warmup_steps) or train longer"
        )


def short_run_warnings(asked: Mapping[str, float], scaled: Scaled) -> Iterator[str]:
    """Iterations that were counted for another batch size see another number of images."""
    length = scaled.length
    if length is not None and asked["epochs"] < length.epochs:
        yield (
            f"{asked['iterations']} iterations of {scaled.step.images} images are "
            f"{asked['epochs']:.3g} epochs, the schedule has {length.epochs}: it takes "
            f"{length.iterations}"
        )
