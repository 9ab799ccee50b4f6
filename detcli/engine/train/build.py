"""Before the first step: build the parts of a training run, and say what was decided."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from detcli.cpu.memory import map_large_blocks
from detcli.data.records import Records
from detcli.data.transforms import check_augmentations
from detcli.engine.run import checkpoint
from detcli.engine.run.build import build_eval_loader, build_model, build_train_loader, read_split
from detcli.engine.run.class_rows import with_classes
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.run.start_weights import load_weights
from detcli.engine.train.announce import announce_blocks
from detcli.engine.train.averaging import Averages, Ema, Swa
from detcli.engine.train.caching import build_caches
from detcli.engine.train.checks import announce_density, announce_small_objects
from detcli.engine.train.class_weights import decide_class_weights
from detcli.engine.train.compiled import compiled
from detcli.engine.train.distill.student import build_student
from detcli.engine.train.distill.teacher import Distillation, load_teacher
from detcli.engine.train.input_shapes import has_fixed_shape, input_shapes
from detcli.engine.train.learning_rate import LearningRate, effective_learning_rate
from detcli.engine.train.matching_stability import stability_of
from detcli.engine.train.meter import Meter
from detcli.engine.train.optim import build_optimizer
from detcli.engine.train.schedule import AveragingRate, Schedule
from detcli.engine.train.trainer import Data, Network, Position, Run, Trainer
from detcli.errors import DataError
from detcli.models.detector import Detector
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
    loaded; subset: of a check instead of a run (overfitting, profiling), picks the training
    images that stand for both splits.
    """
    map_large_blocks()
    train_records, eval_records = read_both(recipe, log, subset)
    check_augmentations(train_records, recipe.data.augment.model_dump())
    is_check = subset is not None  # a handful of images may lack what the whole split has
    class_weights = decide_class_weights(recipe, train_records, log.say, must_act=not is_check)
    announce_small_objects(recipe, train_records, log.say, must_act=not is_check)
    announce_density(recipe, train_records, log.say, must_act=not is_check)
    names = train_records.class_names
    detector = detector_of(recipe, names, class_weights, weights, log, pretrained=not resuming)
    detector.to(ranks.device)
    train_cache, eval_cache = build_caches(recipe, (train_records, eval_records), log)
    train_loader = build_train_loader(recipe, train_records, ranks, train_cache)
    rate = effective_learning_rate(
        recipe.optim,
        batch_per_rank=recipe.data.batch_per_rank,
        world_size=ranks.world_size,
        accumulate=recipe.train.accumulate,
        explicit=explicit_lr,
    )
    run = Run(recipe, ranks, folder, log)
    announce(run, detector, len(train_loader), rate)
    decide_cudnn_benchmark(recipe, train_records, ranks, log)
    eval_loader = build_eval_loader(recipe, eval_records, ranks, cache=eval_cache)
    return Trainer(
        run=run,
        data=Data(train_records, train_loader, eval_records, eval_loader, class_weights),
        network=network_of(run, detector, names, rate.lr),
        averages=averages_of(recipe, detector),
        learning_rate=rate,
        schedule=schedule_of(recipe, len(train_loader)),
        meter=Meter(ranks.device),
        position=Position(),
        stability=None if is_check else stability_of(detector),
    )


def detector_of(
    recipe: Recipe,
    class_names: Sequence[str],
    class_weights: Sequence[float] | None,
    weights: Path | None,
    log: RunLog,
    *,
    pretrained: bool,
) -> Detector:
    """The detector at the start of a run, on the CPU: from `weights`, a checkpoint, where there is
    one, otherwise with the backbone's public weights where `pretrained`."""
    torch.manual_seed(recipe.train.seed)
    detector = build_model(
        recipe,
        len(class_names),
        pretrained=pretrained and weights is None,
        class_weights=class_weights,
    )
    if weights is not None:
        content = with_classes(checkpoint.load(weights), recipe, detector, class_names, log.say)
        load_weights(detector, content, log.say)
    if recipe.train.channels_last:
        detector.to(memory_format=torch.channels_last)
    return detector


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


def announce(run: Run, detector: Detector, num_batches: int, rate: LearningRate) -> None:
    """Say what is about to be trained, and how; num_batches: of an epoch."""
    recipe, ranks, log = run.recipe, run.ranks, run.log
    sizes = [(each.numel(), each.requires_grad) for each in detector.parameters()]
    total = sum(size for size, _ in sizes)
    trainable = sum(size for size, trains in sizes if trains)
    log.say(
        f"{recipe.name}: {recipe.model.name}, {total / 1e6:.2f} M parameters, "
        f"{trainable / 1e6:.2f} M trainable; {ranks.world_size} x {ranks.device}, "
        f"precision {'float32' if recipe.train.amp == 'none' else recipe.train.amp}"
    )
    backbone = recipe.model.backbone
    frozen = getattr(backbone, "frozen_stages", 0)
    if frozen and backbone.weights is None:
        log.say(
            f"model.backbone.frozen_stages is {frozen}, but weights is null: "
            "unless --weights loads them, these stages stay random"
        )
    log.say(rate.sentence)
    steps = math.ceil(num_batches / recipe.train.accumulate)
    log.say(
        f"{recipe.schedule.num_epochs} epochs of {steps} steps, schedule {recipe.schedule.name}; "
        f"seed {recipe.train.seed}"
    )
    announce_blocks(recipe, detector, log.say)
    announce_precision(run)
    announce_averaging(run)
    log.say(loading(run))


def announce_precision(run: Run) -> None:
    """Say what low precision means on this device."""
    amp = run.recipe.train.amp
    if amp == "none":
        return
    what = "float16 with a loss scale" if amp == "fp16" else "bfloat16"
    where = (
        "on the CPU it saves memory, and time only if it computes in it natively"
        if run.ranks.device.type == "cpu"
        else "on CUDA it saves memory and time"
    )
    run.log.say(
        f"train.amp {amp}: convolutions and matrix products in {what} from the first "
        f"step on, weights and losses in float32; {where}"
    )


def announce_averaging(run: Run) -> None:
    """Say which weights will be averaged, and at which rate."""
    swa, epochs = run.recipe.train.swa, run.recipe.schedule.num_epochs
    if swa is None:
        return
    first = swa.first_epoch(epochs)
    low = f" to {swa.min_lr_ratio:g} in every cycle" if swa.course == "cyclic" else ""
    run.log.say(
        f"swa: from epoch {first + 1} the learning rate is {swa.lr_ratio:g}{low} x lr, and "
        f"the weights of {(epochs - first) // swa.every} epochs are averaged, every {swa.every}"
    )


def loading(run: Run) -> str:
    """How batches come to the device, in a sentence."""
    data = run.recipe.data
    workers = "in the training process"
    if data.workers:
        alive = "persist" if data.persistent_workers else "restart each epoch"
        workers = (
            f"{data.workers} workers that {alive}, {data.prefetch_factor} batches prefetched each"
        )
    pinned = "pinned" if data.pin_memory and run.ranks.device.type == "cuda" else "not pinned"
    layout = ", channels last" if run.recipe.train.channels_last else ""
    return f"loading: {workers}; memory {pinned}{layout}"


def decide_cudnn_benchmark(recipe: Recipe, records: Records, ranks: Ranks, log: RunLog) -> None:
    """cudnn.benchmark pays only where input shapes do not change (note 002); say what it is."""
    if ranks.device.type != "cuda":
        return
    fixed = has_fixed_shape(recipe, records)
    asked = recipe.train.cudnn_benchmark
    torch.backends.cudnn.benchmark = fixed if asked == "auto" else asked == "on"
    state = "on" if torch.backends.cudnn.benchmark else "off"
    shapes = len(input_shapes(recipe, records))
    why = "one input shape" if fixed else f"input shapes vary, {shapes} of whole images"
    log.say(f"cudnn.benchmark {state} ({why}; train.cudnn_benchmark {asked})")


def network_of(run: Run, detector: Detector, class_names: Sequence[str], lr: float) -> Network:
    """A detector on its device, and what changes its weights."""
    model, distill = model_of(run, detector, class_names)
    optimizer = optimizer_of(run.recipe, detector, lr, distill)
    return Network(detector, wrap(model, run.ranks), distill, optimizer, scaler_of(run))


def scaler_of(run: Run) -> torch.amp.GradScaler:
    """The scale of the loss, which only float16 needs."""
    return torch.amp.GradScaler(run.ranks.device.type, enabled=run.recipe.train.amp == "fp16")


def model_of(
    run: Run, detector: Detector, class_names: Sequence[str]
) -> tuple[nn.Module, Distillation | None]:
    """What the training loop calls, the detector compiled or as a student where the recipe asks
    for it; and the teacher."""
    recipe, ranks, log = run.recipe, run.ranks, run.log
    model = compiled(detector, ranks.device, log.say) if recipe.train.compile else detector
    settings = recipe.train.distill
    if settings is None:
        return model, None
    teacher, fingerprint = load_teacher(settings.teacher, class_names, ranks)
    student = build_student(model, detector, recipe, teacher.detector, teacher.recipe, ranks.device)
    extra = sum(parameter.numel() for parameter in student.adapters.parameters())
    maps = (
        f"feature maps x {settings.feature_weight:g} on objects, x {settings.background_weight:g} "
        f"on background, {extra} adapter parameters that are not part of the detector"
    )
    log.say(
        f"distill: the teacher is {teacher.recipe.model.name} of {teacher.path}, "
        f"frozen; class scores x {settings.logits_weight:g}, "
        f"{maps if settings.imitates_maps else 'feature maps are not compared'}"
    )
    return student, Distillation(recipe, teacher, student, fingerprint)


def averages_of(recipe: Recipe, detector: Detector) -> Averages:
    """The averages of the weights that the recipe asks for."""
    ema, swa = recipe.train.ema, recipe.train.swa
    if ema is not None:
        return Averages(ema=Ema(detector, decay=ema.decay, warmup_steps=ema.warmup_steps))
    if swa is None:
        return Averages()
    first = swa.first_epoch(recipe.schedule.num_epochs)
    return Averages(swa=Swa(detector, first_epoch=first, every=swa.every))


def wrap(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Data-parallel over ranks, where there are several."""
    if ranks.world_size == 1:
        return model
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices)


def optimizer_of(
    recipe: Recipe, detector: Detector, lr: float, distill: Distillation | None = None
) -> torch.optim.Optimizer:
    """The optimiser of a recipe over a detector, and over its adapters to a teacher."""
    optimizer = build_optimizer(detector, recipe.optim, lr)
    adapters = [] if distill is None else list(distill.student.adapters.parameters())
    if adapters:
        decay = recipe.optim.weight_decay
        group = {"params": adapters, "lr": lr, "lr_mult": 1.0, "weight_decay": decay}
        optimizer.add_param_group(group)
    return optimizer


def schedule_of(recipe: Recipe, batches_per_epoch: int) -> Schedule:
    """The schedule of a recipe for this many batches per epoch."""
    steps = math.ceil(batches_per_epoch / recipe.train.accumulate)
    swa, averaging = recipe.train.swa, None
    if swa is not None:
        averaging = AveragingRate(
            first=swa.first_epoch(recipe.schedule.num_epochs) * steps,
            cycle=swa.every * steps,
            high=swa.lr_ratio,
            low=swa.min_lr_ratio if swa.course == "cyclic" else swa.lr_ratio,
        )
    return Schedule(recipe.schedule, steps, averaging)
