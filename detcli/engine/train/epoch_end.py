"""After the last batch of an epoch: report, average, evaluate, save."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import nn

from detcli.engine.detect.evaluate import Evaluation, evaluate
from detcli.engine.run import distributed
from detcli.engine.run.batch import forward
from detcli.engine.run.predictions import write_measured
from detcli.engine.train.averaging import reestimate_norms
from detcli.engine.train.matching_stability import NUM_IMAGES, matched_queries
from detcli.engine.train.meter import Meter, mean_losses, peak_memory_gib
from detcli.engine.train.state import save
from detcli.engine.train.step import seed_step
from detcli.engine.train.trainer import Trainer
from detcli.types import Batch


@dataclass
class Measured:
    """What an epoch's end measured, nothing where nothing was due. evaluation: on rank 0 only;
    metrics: on every rank, the terms of the validation loss among them."""

    evaluation: Evaluation | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)

    @property
    def ap50(self) -> float:
        return self.metrics.get("AP50") or 0.0


def end_epoch(trainer: Trainer) -> Measured:
    """Everything between two epochs; what was measured."""
    position, train = trainer.position, trainer.run.recipe.train
    report_epoch(trainer)
    report_matching(trainer)
    position.epoch, position.batch = position.epoch + 1, 0
    average_weights(trainer)
    is_last = position.epoch == trainer.schedule.epochs
    due = is_last or (train.eval_every > 0 and position.epoch % train.eval_every == 0)
    measured = measure(trainer) if due else Measured()
    if train.val_loss:
        measured.metrics |= validation_loss(trainer)
    if note := trainer.schedule.end_epoch(measured.metrics, position.epoch):
        trainer.run.log.say(note)
    if due:
        keep_best(trainer, measured)
    if due or trainer.goal_ap50 is None:  # epochs of the overfit check are a step or two
        save(trainer, "last.pt")
    return measured


def report_epoch(trainer: Trainer) -> None:
    """Record what the epoch cost, and say how often each augmentation acted on this rank, also if
    it never did."""
    meter, epoch, run = trainer.meter, trainer.position.epoch + 1, trainer.run
    cost = {"seconds": round(meter.seconds, 3), "images": meter.seen * run.ranks.world_size}
    memory = round(peak_memory_gib(run.ranks.device), 3)
    run.log.record({"kind": "epoch", "epoch": epoch, "memory_gib": memory} | cost)
    names = trainer.data.train_loader.dataset.augmentations
    if names:
        fired = {name: meter.fired[name] for name in names}
        run.log.record({"kind": "fired", "epoch": epoch, **fired})
        counts = ", ".join(f"{name} {count}" for name, count in fired.items())
        run.log.say(f"epoch {epoch}: of {meter.seen} images, {counts}")
    meter.end_epoch()


def report_matching(trainer: Trainer) -> None:
    """Measure and record, on rank 0, the fraction of queries whose object changed in this epoch, of
    those with an object; nothing after the first epoch."""
    run, position, stability = trainer.run, trainer.position, trainer.stability
    if stability is None:
        return
    queries = matched_queries(
        trainer.network.detector,
        stability.detector,
        run.recipe,
        trainer.data.eval_loader,
        run.ranks.device,
    )
    counts = distributed.gather(stability.update(queries))
    if counts is None:
        return
    changed, total = (sum(column) for column in zip(*counts, strict=True))
    if not total:
        return
    epoch, step = position.epoch + 1, position.step
    run.log.record({"kind": "matching", "epoch": epoch, "step": step, "changed": changed / total})
    run.log.say(
        f"epoch {epoch}: matching instability {changed / total:.1%}: fraction of {total} matched "
        f"queries (up to {NUM_IMAGES} images) assigned to a different object than last epoch"
    )


def average_weights(trainer: Trainer) -> None:
    """Where it is due, take the weights into the mean, and make its batch norms fit it with a pass
    over the images of the coming epoch."""
    swa, epoch, run = trainer.averages.swa, trainer.position.epoch, trainer.run
    if swa is None or not swa.is_due(epoch):
        return
    seed_step(trainer)
    started = time.perf_counter()
    swa.update(trainer.network.detector)

    def pass_over(model: nn.Module, batch: Batch) -> None:
        forward(model, run.recipe, batch, run.ranks.device)

    count = reestimate_norms(swa.model, trainer.data.train_loader.start(epoch), pass_over)
    seconds = time.perf_counter() - started
    done = f"{count} batch norms re-estimated over the training images ({seconds:.1f} s)"
    run.log.say(
        f"epoch {epoch}: {swa.holds(epoch)} is evaluated and saved; "
        f"{done if count else 'no trainable batch norm to re-estimate'}"
    )


def measure(trainer: Trainer) -> Measured:
    """Evaluate the weights that count."""
    started = time.perf_counter()
    run, data, position = trainer.run, trainer.data, trainer.position
    detector = trainer.averages.evaluated(trainer.network.detector)
    found = evaluate(detector, run.recipe, data.eval_records, data.eval_loader, run.ranks, run.log)
    metrics = distributed.from_main(None if found is None else dict(found.metrics.metrics))
    seconds = time.perf_counter() - started
    run.log.record(
        {"kind": "eval", "epoch": position.epoch, "step": position.step}
        | metrics
        | {"seconds": round(seconds, 2)}
    )
    shown = " ".join(
        f"{name} {'-' if metrics[name] is None else format(metrics[name], '.4f')}"
        for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    )
    run.log.say(f"epoch {position.epoch}: {shown} ({seconds:.1f} s)")
    return Measured(found, metrics)


@torch.no_grad()
def validation_loss(trainer: Trainer) -> dict[str, float | None]:
    """The loss on the evaluation split, without touching weights or statistics (note 001's
    workflow of one epoch of training and one of validation)."""
    run, detector, position = trainer.run, trainer.network.detector, trainer.position
    meter = Meter(run.ranks.device)
    detector.eval()
    for batch in trainer.data.eval_loader.start(0):
        outputs, targets = forward(detector, run.recipe, batch, run.ranks.device)
        meter.add(detector.loss(outputs, targets), batch)
    gathered = distributed.gather(meter.sums())
    losses = distributed.from_main(None if gathered is None else mean_losses(gathered))
    run.log.record({"kind": "val_loss", "epoch": position.epoch, "step": position.step} | losses)
    run.log.say(f"epoch {position.epoch}: validation loss {losses['loss']:.4f}")
    return dict(losses)


def keep_best(trainer: Trainer, measured: Measured) -> None:
    """Save the best weights so far, and their detections in COCO's format."""
    run, position = trainer.run, trainer.position
    ap = measured.metrics.get("AP") or 0.0
    if position.best is not None and ap <= position.best:
        return
    position.best, position.best_epoch = ap, position.epoch
    save(trainer, "best.pt")
    if measured.evaluation is not None:
        write_measured(
            run.folder,
            "predictions.json",
            measured.evaluation.detections,
            trainer.data.eval_records,
            run.recipe,
            "detections",
        )
