"""The training loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detcli.data.loader import Loader
from detcli.data.records import Records
from detcli.engine.detect.evaluate import Evaluation, evaluate
from detcli.engine.run import checkpoint, distributed
from detcli.engine.run.batch import autocast, network_input
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.run.predictions import write_measured
from detcli.engine.train import divergence
from detcli.engine.train.averaging import average_weights, evaluated, holds
from detcli.engine.train.distill.teacher import Distillation
from detcli.engine.train.ema import Ema
from detcli.engine.train.learning_rate import LearningRate
from detcli.engine.train.matching_stability import MatchingStability, report_matching
from detcli.engine.train.meter import Meter, mean_losses, peak_memory_gib
from detcli.engine.train.schedule import Schedule
from detcli.engine.train.swa import Swa
from detcli.errors import DivergedError
from detcli.models.detector import Detector
from detcli.phases import phase
from detcli.recipe import Recipe
from detcli.types import Batch, Target


@dataclass
class Position:
    """Where a run stands: all of this is in the checkpoint."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the current epoch finished, on each rank
    step: int = 0  # optimiser steps taken
    best: float | None = None  # highest AP so far
    best_epoch: int | None = None


@dataclass
class Trainer:
    """Everything the loop works with. `model` is what the loop calls: `detector`, compiled, as the
    student of a teacher, and wrapped when there are many ranks, each where it applies."""

    recipe: Recipe
    ranks: Ranks
    folder: Path
    log: RunLog
    detector: Detector
    model: nn.Module
    optimizer: torch.optim.Optimizer
    learning_rate: LearningRate
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: Ema | None
    swa: Swa | None
    distill: Distillation | None
    train_loader: Loader
    train_records: Records
    eval_loader: Loader
    eval_records: Records
    meter: Meter
    position: Position
    class_weights: tuple[float, ...] | None
    stability: MatchingStability | None = None  # of detectors that match queries
    stop_at: float | None = None  # AP50 that ends the run (the overfit check)


def fit(trainer: Trainer) -> Evaluation | None:
    """Train from the trainer's position to the last epoch; the last evaluation, on rank 0."""
    result: Evaluation | None = None
    while trainer.position.epoch < trainer.schedule.epochs:
        trainer.detector.train()
        trainer.meter.start()
        for batch in epoch_batches(trainer):
            train_batch(trainer, batch)
        result, done = end_epoch(trainer)
        if done:
            break
    return result


def train_batch(trainer: Trainer, batch: Batch) -> None:
    """Forward and backward of one batch and, where it completes a step, the step."""
    position, settings = trainer.position, trainer.recipe.train
    with phase("transfer"):
        images, targets = network_input(trainer.recipe, batch, trainer.ranks.device)
    seed_step(trainer)
    at_step = ends_step(trainer)
    with contextlib.nullcontext() if at_step else no_sync(trainer.model):
        try:
            losses = compute_losses(trainer, images, targets)
        except DivergedError as error:  # a matching without finite costs
            raise give_up(trainer, [str(error)], images, targets) from None
        with phase("check"):
            check_finite(trainer, losses, images, targets)
        with phase("backward"):
            total = torch.stack(list(losses.values())).sum()
            trainer.scaler.scale(total / group_size(trainer)).backward()  # type: ignore[no-untyped-call]
    with phase("logging"):
        trainer.meter.add(losses, batch)
    position.batch += 1
    if at_step:
        with phase("optimiser"):
            take_step(trainer, images, targets)
        if position.step % settings.log_every == 0:
            with phase("logging"):
                log_step(trainer)
        if settings.save_every and position.step % settings.save_every == 0:
            save(trainer, "last.pt")


def epoch_batches(trainer: Trainer) -> Iterator[Batch]:
    """The rest of the current epoch, with a progress bar, timed."""
    position, loader = trainer.position, trainer.train_loader
    batches = trainer.meter.timed(loader.start(position.epoch, skip=position.batch))
    what = f"epoch {position.epoch + 1}/{trainer.schedule.epochs}"
    return trainer.log.track(batches, what, len(loader), position.batch)


def endless_batches(trainer: Trainer) -> Iterator[Batch]:
    """The training batches, epoch after epoch with nothing in between, timed."""
    position = trainer.position
    while True:
        yield from trainer.meter.timed(trainer.train_loader.start(position.epoch))
        position.epoch, position.batch = position.epoch + 1, 0


def seed_step(trainer: Trainer) -> None:
    """Make the step's randomness a function of (seed, batch, rank), so that resuming and replaying
    repeat it without any saved generator state."""
    position, ranks = trainer.position, trainer.ranks
    done = position.epoch * len(trainer.train_loader) + position.batch
    torch.manual_seed(
        trainer.recipe.train.seed + (done * ranks.world_size + ranks.rank) * 1_000_003
    )


def ends_step(trainer: Trainer) -> bool:
    """Whether the current batch completes an accumulated step; the last of an epoch always does."""
    number = trainer.position.batch + 1
    return number % trainer.recipe.train.accumulate == 0 or number == len(trainer.train_loader)


def group_size(trainer: Trainer) -> int:
    """How many batches the current step accumulates; the last of an epoch may have fewer."""
    accumulate, total = trainer.recipe.train.accumulate, len(trainer.train_loader)
    first = trainer.position.batch // accumulate * accumulate
    return min(accumulate, total - first)


def no_sync(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep gradients on this rank until the step is complete."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        manager: contextlib.AbstractContextManager[None] = model.no_sync()
        return manager
    return contextlib.nullcontext()


def compute_losses(
    trainer: Trainer, images: Tensor, targets: Sequence[Target]
) -> dict[str, Tensor]:
    """Forward in the recipe's precision, losses in float32."""
    with phase("forward"), autocast(trainer.recipe, trainer.ranks.device):
        outputs = trainer.model(images, targets)
    maps: tuple[Tensor, ...] = ()
    if trainer.distill is not None:
        outputs, maps = outputs
    with phase("loss"):
        losses: dict[str, Tensor] = trainer.detector.loss(outputs, targets)
    if trainer.distill is not None:
        with phase("teacher"):
            losses |= trainer.distill.losses(outputs, maps, images, targets)
    return losses


def check_finite(
    trainer: Trainer, losses: dict[str, Tensor], images: Tensor, targets: Sequence[Target]
) -> None:
    """Raise DivergedError before a NaN or an infinity reaches the weights."""
    broken = divergence.broken_terms(losses)
    if broken:
        raise give_up(trainer, broken, images, targets)


def give_up(
    trainer: Trainer, broken: list[str], images: Tensor, targets: Sequence[Target]
) -> Exception:
    """Save the batch for replay; the error to raise."""
    position, ranks = trainer.position, trainer.ranks
    path = trainer.folder / f"diverged-rank{ranks.rank}.pt"
    context = {**identity(trainer), "step": position.step, "seed": torch.initial_seed()}
    divergence.save_batch(path, images, tuple(targets), trainer.detector, context)
    where = f"epoch {position.epoch + 1}, step {position.step + 1}"
    return divergence.diverged(broken, where, path)


def take_step(trainer: Trainer, images: Tensor, targets: Sequence[Target]) -> None:
    """Clip, step, and move schedule and moving average on."""
    optim, position = trainer.recipe.optim, trainer.position
    trainer.schedule.apply(trainer.optimizer, trainer.learning_rate.lr, position.step)
    parameters = [value for group in trainer.optimizer.param_groups for value in group["params"]]
    if optim.clip_norm or optim.clip_value:
        trainer.scaler.unscale_(trainer.optimizer)
    if optim.clip_value:
        nn.utils.clip_grad_value_(parameters, optim.clip_value)
    if optim.clip_norm:
        norm = nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        if not trainer.scaler.is_enabled() and not torch.isfinite(norm):
            raise give_up(trainer, [f"gradient norm = {norm.item():g}"], images, targets)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    trainer.optimizer.zero_grad(set_to_none=True)
    position.step += 1
    if trainer.ema is not None:
        with phase("ema"):
            trainer.ema.update(trainer.detector, position.step)


def log_step(trainer: Trainer) -> None:
    """One line for the reader and one for metrics.jsonl; starts a new window."""
    position, meter = trainer.position, trainer.meter
    losses, speed = meter.losses(), meter.speed(trainer.ranks.world_size)
    lr = trainer.learning_rate.lr * trainer.schedule.factor(position.step - 1)
    trainer.log.record(
        {"kind": "train", "epoch": position.epoch + 1, "step": position.step, "lr": lr}
        | losses
        | speed
    )
    terms = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
    trainer.log.say(
        f"epoch {position.epoch + 1}/{trainer.schedule.epochs} step {position.step} | {terms} | "
        f"lr {lr:.3g} | {speed['images_per_s']:.1f} images/s | "
        f"data wait {speed['data_wait']:.0%} | {speed['memory_gib']:.2f} GiB"
    )
    meter.reset()


def end_epoch(trainer: Trainer) -> tuple[Evaluation | None, bool]:
    """Evaluate, tell the schedule, save; the evaluation and whether to stop early."""
    position, train = trainer.position, trainer.recipe.train
    report_epoch(trainer)
    if trainer.stability is not None:
        report_matching(trainer, trainer.stability)
    position.epoch, position.batch = position.epoch + 1, 0
    is_last = position.epoch == trainer.schedule.epochs
    if trainer.swa is not None and trainer.swa.is_due(position.epoch):
        seed_step(trainer)
        average_weights(trainer, trainer.swa)
    due = is_last or (train.eval_every > 0 and position.epoch % train.eval_every == 0)
    result = measure(trainer) if due else None
    metrics = distributed.from_main(dict(result.metrics.metrics) if result else {})
    if train.val_loss:
        metrics |= validation_loss(trainer)
    if note := trainer.schedule.end_epoch(metrics, position.epoch):
        trainer.log.say(note)
    ap = metrics.get("AP")
    if due and (position.best is None or (ap or 0.0) > position.best):
        position.best, position.best_epoch = ap or 0.0, position.epoch
        save(trainer, "best.pt")
        if result is not None:
            write_detections(trainer, result)
    if due or trainer.stop_at is None:  # epochs of the overfit check are a step or two
        save(trainer, "last.pt")
    return result, trainer.stop_at is not None and (metrics.get("AP50") or 0.0) > trainer.stop_at


def write_detections(trainer: Trainer, result: Evaluation) -> None:
    """The detections of the best epoch, in COCO's format."""
    write_measured(
        trainer.folder,
        "predictions.json",
        result.detections,
        trainer.eval_records,
        trainer.recipe,
        "detections",
    )


def report_epoch(trainer: Trainer) -> None:
    """Record what the epoch cost, and say how often each augmentation acted on this rank, also if
    it never did."""
    meter, position = trainer.meter, trainer.position
    cost = {"seconds": round(meter.seconds, 3), "images": meter.seen * trainer.ranks.world_size}
    memory = round(peak_memory_gib(trainer.ranks.device), 3)
    trainer.log.record({"kind": "epoch", "epoch": position.epoch + 1, "memory_gib": memory} | cost)
    names = trainer.train_loader.dataset.augmentations
    if names:
        fired = {name: meter.fired[name] for name in names}
        trainer.log.record({"kind": "fired", "epoch": position.epoch + 1, **fired})
        counts = ", ".join(f"{name} {count}" for name, count in fired.items())
        trainer.log.say(f"epoch {position.epoch + 1}: of {meter.seen} images, {counts}")
    meter.end_epoch()


def measure(trainer: Trainer) -> Evaluation | None:
    """Evaluate the weights that count."""
    started = time.perf_counter()
    position = trainer.position
    result = evaluate(
        evaluated(trainer),
        trainer.recipe,
        trainer.eval_records,
        trainer.eval_loader,
        trainer.ranks,
        trainer.log,
    )
    if result is not None:
        seconds = time.perf_counter() - started
        values = result.metrics.metrics
        trainer.log.record(
            {"kind": "eval", "epoch": position.epoch, "step": position.step}
            | values
            | {"seconds": round(seconds, 2)}
        )
        shown = " ".join(
            f"{name} {'-' if values[name] is None else format(values[name], '.4f')}"
            for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
        )
        trainer.log.say(f"epoch {position.epoch}: {shown} ({seconds:.1f} s)")
    return result


@torch.no_grad()
def validation_loss(trainer: Trainer) -> dict[str, float | None]:
    """The loss on the evaluation split, without touching weights or statistics (note 001's
    workflow of one epoch of training and one of validation)."""
    meter = Meter(trainer.ranks.device)
    trainer.detector.eval()
    for batch in trainer.eval_loader.start(0):
        images, targets = network_input(trainer.recipe, batch, trainer.ranks.device)
        with autocast(trainer.recipe, trainer.ranks.device):
            outputs = trainer.detector(images, targets)
        meter.add(trainer.detector.loss(outputs, targets), batch)
    gathered = distributed.gather(meter.sums())
    losses = distributed.from_main(None if gathered is None else mean_losses(gathered))
    position = trainer.position
    trainer.log.record(
        {"kind": "val_loss", "epoch": position.epoch, "step": position.step} | losses
    )
    trainer.log.say(f"epoch {position.epoch}: validation loss {losses['loss']:.4f}")
    return dict(losses)


def identity(trainer: Trainer) -> dict[str, Any]:
    """What any reader of a file of this run needs to rebuild the detector."""
    weights = trainer.class_weights
    return {
        "recipe": trainer.recipe.model_dump(mode="json"),
        "class_weights": None if weights is None else list(weights),
        "class_names": list(trainer.train_records.class_names),
        "category_ids": list(trainer.train_records.category_ids),
    }


def save(trainer: Trainer, name: str) -> None:
    """Write a checkpoint from which the run goes on exactly."""
    trainer.meter.reset()  # a resumed run starts its window here too
    if not trainer.ranks.is_main:
        return
    checkpoint.save(
        trainer.folder / name,
        {
            **identity(trainer),
            "kind": "training",
            "model": trainer.detector.state_dict(),
            "ema": None if trainer.ema is None else trainer.ema.model.state_dict(),
            "holds": holds(trainer),
            "swa": None if trainer.swa is None else trainer.swa.state_dict(),
            "distill": None if trainer.distill is None else trainer.distill.state_dict(),
            "stability": None if trainer.stability is None else trainer.stability.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "schedule": trainer.schedule.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "meter": trainer.meter.state_dict(),
            "position": vars(trainer.position).copy(),
            "world_size": trainer.ranks.world_size,
            "explicit_lr": trainer.learning_rate.explicit,
            "metrics_bytes": trainer.log.size(),
        },
    )


def restore(trainer: Trainer, content: dict[str, Any]) -> None:
    """Put a trainer back to where a checkpoint stands."""
    trainer.detector.load_state_dict(content["model"])
    if trainer.ema is not None:
        trainer.ema.model.load_state_dict(content["ema"] or content["model"])
    if trainer.swa is not None:
        trainer.swa.load_state_dict(content["swa"])
    if trainer.distill is not None:
        trainer.distill.load_state_dict(content["distill"])
    if trainer.stability is not None:
        trainer.stability.load_state_dict(content["stability"])
    trainer.optimizer.load_state_dict(content["optimizer"])
    trainer.schedule.load_state_dict(content["schedule"])
    trainer.meter.load_state_dict(content["meter"])
    if content["scaler"]:
        trainer.scaler.load_state_dict(content["scaler"])
    trainer.position = Position(**content["position"])
    trainer.log.cut(content["metrics_bytes"])
