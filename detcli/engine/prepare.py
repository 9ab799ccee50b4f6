"""Before the first step: build the parts of a training run, and say what was decided."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from detcli.data.loader import Loader
from detcli.data.records import Records
from detcli.data.transforms import check_augmentations
from detcli.engine import checkpoint
from detcli.engine.distributed import Ranks
from detcli.engine.ema import Ema
from detcli.engine.input_shapes import has_fixed_shape, input_shapes
from detcli.engine.learning_rate import LearningRate, effective_learning_rate
from detcli.engine.log import RunLog
from detcli.engine.meter import Meter
from detcli.engine.optim import build_optimizer
from detcli.engine.schedule import Schedule
from detcli.engine.setup import build_eval_loader, build_model, build_train_loader, read_split
from detcli.engine.train import Position, Trainer
from detcli.engine.weights import load_weights
from detcli.errors import DataError
from detcli.recipe import Recipe

Subset = Callable[[Records], Records]


def prepare(
    recipe: Recipe,
    folder: Path,
    ranks: Ranks,
    log: RunLog,
    *,
    explicit_lr: bool,
    weights: Path | None = None,
    resuming: bool = False,
    subset: Subset | None = None,
) -> Trainer:
    """Everything `fit` needs, announced on the log.

    weights: a checkpoint to start from; resuming: a checkpoint follows, so public weights are not
    loaded; subset: picks the images that both splits are reduced to (the overfit check).
    """
    train_records, eval_records = read_both(recipe, log, subset)
    check_augmentations(train_records, recipe.data.augment.model_dump())
    torch.manual_seed(recipe.train.seed)
    detector = build_model(
        recipe, len(train_records.class_names), pretrained=weights is None and not resuming
    )
    if weights is not None:
        load_weights(detector, checkpoint.load(weights), train_records.class_names, log.say)
    detector.to(ranks.device)
    if recipe.train.channels_last:
        detector.to(memory_format=torch.channels_last)
    train_loader = build_train_loader(recipe, train_records, ranks)
    rate = learning_rate(recipe, ranks, explicit_lr)
    announce(recipe, detector, ranks, log, train_loader, rate)
    decide_cudnn_benchmark(recipe, train_records, ranks, log)
    ema = recipe.train.ema
    return Trainer(
        recipe=recipe,
        ranks=ranks,
        folder=folder,
        log=log,
        detector=detector,
        model=wrap(detector, ranks),
        optimizer=optimizer_of(recipe, detector, rate.lr),
        learning_rate=rate,
        schedule=schedule_of(recipe, len(train_loader)),
        scaler=torch.amp.GradScaler(ranks.device.type, enabled=recipe.train.amp == "fp16"),
        ema=None if ema is None else Ema(detector, decay=ema.decay, warmup_steps=ema.warmup_steps),
        train_loader=train_loader,
        train_records=train_records,
        eval_loader=build_eval_loader(recipe, eval_records, ranks),
        eval_records=eval_records,
        meter=Meter(ranks.device),
        position=Position(),
    )


def read_both(recipe: Recipe, log: RunLog, subset: Subset | None) -> tuple[Records, Records]:
    """The training and the evaluation split, with the same classes."""
    train_records = read_split(recipe, "train")
    if subset is not None:
        train_records = subset(train_records)
        eval_records = train_records
    else:
        eval_records = read_split(recipe, recipe.eval.split, train_records.class_names)
    if len(train_records) == 0:
        raise DataError(f"{recipe.data.root}: the train split has no images")
    for split, records in (("train", train_records), (recipe.eval.split, eval_records)):
        for sentence in records.notes.sentences():
            log.say(f"{split}: {sentence}")
    return train_records, eval_records


def learning_rate(recipe: Recipe, ranks: Ranks, explicit: bool) -> LearningRate:
    """The effective learning rate of this run."""
    return effective_learning_rate(
        lr=recipe.optim.lr,
        lr_batch=recipe.optim.lr_batch,
        lr_rule=recipe.optim.lr_rule,
        batch_per_rank=recipe.data.batch_per_rank,
        world_size=ranks.world_size,
        accumulate=recipe.train.accumulate,
        explicit=explicit,
    )


def announce(
    recipe: Recipe,
    detector: nn.Module,
    ranks: Ranks,
    log: RunLog,
    loader: Loader,
    rate: LearningRate,
) -> None:
    """Say what is about to be trained, and how."""
    total = sum(parameter.numel() for parameter in detector.parameters())
    trainable = sum(
        parameter.numel() for parameter in detector.parameters() if parameter.requires_grad
    )
    log.say(
        f"{recipe.name}: {recipe.model.name}, {total / 1e6:.2f} M parameters, "
        f"{trainable / 1e6:.2f} M trainable; {ranks.world_size} x {ranks.device}, "
        f"precision {'float32' if recipe.train.amp == 'none' else recipe.train.amp}"
    )
    backbone = recipe.model.backbone
    if backbone.frozen_stages and backbone.weights is None:
        log.say(
            f"model.backbone.frozen_stages is {backbone.frozen_stages}, but weights is null: "
            "unless --weights fills them, these stages stay random"
        )
    log.say(rate.sentence)
    steps = math.ceil(len(loader) / recipe.train.accumulate)
    log.say(
        f"{recipe.schedule.num_epochs} epochs of {steps} steps, schedule {recipe.schedule.name}; "
        f"seed {recipe.train.seed}"
    )


def decide_cudnn_benchmark(recipe: Recipe, records: Records, ranks: Ranks, log: RunLog) -> None:
    """cudnn.benchmark pays only where input shapes do not change (note 002); say what it is."""
    if ranks.device.type != "cuda":
        return
    fixed = has_fixed_shape(recipe, records)
    asked = recipe.train.cudnn_benchmark
    torch.backends.cudnn.benchmark = fixed if asked == "auto" else asked == "on"
    state = "on" if torch.backends.cudnn.benchmark else "off"
    shapes = len(input_shapes(recipe, records))
    why = "one input shape" if fixed else f"input shapes change, {shapes} of whole images"
    log.say(f"cudnn.benchmark {state} ({why}; train.cudnn_benchmark {asked})")


def wrap(detector: nn.Module, ranks: Ranks) -> nn.Module:
    """Data-parallel over ranks, where there are several."""
    if ranks.world_size == 1:
        return detector
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(detector, device_ids=devices)


def optimizer_of(recipe: Recipe, detector: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimiser of a recipe over a detector."""
    optim = recipe.optim
    return build_optimizer(
        detector,
        name=optim.name,
        lr=lr,
        weight_decay=optim.weight_decay,
        groups={
            "backbone_lr_mult": optim.backbone_lr_mult,
            "norm_decay": optim.norm_decay,
            "bias_decay": optim.bias_decay,
            "bias_lr_mult": optim.bias_lr_mult,
        },
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        betas=optim.betas,
    )


def schedule_of(recipe: Recipe, batches_per_epoch: int) -> Schedule:
    """The schedule of a recipe for this many batches per epoch."""
    values = recipe.schedule.model_dump()
    values |= {
        "epochs": recipe.schedule.num_epochs,
        "milestones": recipe.schedule.milestone_epochs,
    }
    return Schedule(
        steps_per_epoch=math.ceil(batches_per_epoch / recipe.train.accumulate), **values
    )
