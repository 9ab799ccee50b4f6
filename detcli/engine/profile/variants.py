"""The same step with other settings, side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from detcli.engine.profile.timing import Spread, paired_ratios, time_alternately
from detcli.engine.profile.torch_profiler import allocated_peak_gib
from detcli.engine.profile.trial import like, repeated
from detcli.engine.run.log import RunLog
from detcli.engine.train.loop import train_batch
from detcli.engine.train.trainer import Trainer
from detcli.errors import DetcliError, DivergedError
from detcli.recipe import Recipe, override_recipe
from detcli.types import Batch

FAR_SLOWER = 5.0  # times float32


@dataclass(frozen=True)
class Variant:
    """A setting to try: the override that makes it, or the reason why it is not tried here."""

    name: str
    override: str
    reason: str | None = None


@dataclass(frozen=True)
class VariantRow:
    """What a variant did.

    ratio: time of its step, without waiting for data, over the time of the recipe's own, turn by
    turn; step_memory_gib: the most that a step allocates beyond what it finds; both None, with a
    note, where the variant did not run.
    """

    name: str
    ratio: Spread | None
    step_memory_gib: float | None
    note: str | None = None


def variants_of(
    recipe: Recipe, device: torch.device, *, benchmark: bool, compile_too: bool
) -> Iterator[Variant]:
    """Every setting that could change the time of a step, each the only difference to the recipe.

    benchmark: whether cudnn.benchmark is on.
    """
    train = recipe.train
    cpu = "needs CUDA" if device.type == "cpu" else None
    if train.amp != "none":
        yield Variant("float32", "train.amp=none")
    if train.amp != "bf16":
        yield Variant("bf16", "train.amp=bf16", slow_convolution(device))
    if train.amp != "fp16":
        yield Variant("fp16", "train.amp=fp16", cpu)
    layout = "first" if train.channels_last else "last"
    yield Variant(f"channels {layout}", f"train.channels_last={not train.channels_last}")
    switched = "off" if benchmark else "on"
    yield Variant(f"cudnn.benchmark {switched}", f"train.cudnn_benchmark={switched!r}", cpu)
    asked = None if compile_too or train.compile else "takes minutes: --compile"
    name = "not compiled" if train.compile else "compiled"
    yield Variant(name, f"train.compile={not train.compile}", asked)


@dataclass
class Subject:
    """Something that takes turns: a trial with batches of its own; benchmark: cudnn's switch."""

    name: str
    trainer: Trainer
    held: Sequence[Batch]
    benchmark: bool
    batches: Iterator[Batch] = field(init=False)

    def __post_init__(self) -> None:
        self.batches = repeated(self.trainer, self.held)

    def step(self) -> None:
        """One batch; a CUDA device may still be at work on it afterwards."""
        torch.backends.cudnn.benchmark = self.benchmark
        train_batch(self.trainer, next(self.batches))

    def warm_up(self) -> None:
        """Steps that are not timed: one on the CPU; on CUDA one of each shape and one more, so that
        no turn pays for a first time."""
        shapes = len(self.held) if self.trainer.run.ranks.device.type == "cuda" else 0
        for _ in range(shapes + 1):
            self.step()

    def memory_gib(self) -> float:
        """The most memory that a step allocates beyond what it finds."""
        return allocated_peak_gib(self.step, self.trainer.run.ranks.device)


def measure_variants(
    base: Subject, variants: Sequence[Variant], log: RunLog, *, seconds: float
) -> list[VariantRow]:
    """The base and each variant on the same batches in turns; the base is the first row.

    seconds: about how long each of them steps.
    """
    base.warm_up()
    subjects, rows = {base.name: base}, {}
    for variant in variants:
        found = _subject_of(variant, base)
        if isinstance(found, Subject):
            subjects[variant.name] = found
        else:
            rows[variant.name] = found
    times = in_turns(list(subjects.values()), log, seconds=seconds)
    for subject, its_times in zip(subjects.values(), times, strict=True):
        ratio = paired_ratios(times[0], its_times)
        rows[subject.name] = VariantRow(subject.name, ratio, subject.memory_gib())
    return [rows[name] for name in (base.name, *(variant.name for variant in variants))]


def in_turns(subjects: Sequence[Subject], log: RunLog, *, seconds: float) -> list[list[float]]:
    """Milliseconds of the steps of each subject; see `time_alternately`."""
    device = subjects[0].trainer.run.ranks.device
    steps = [subject.step for subject in subjects]
    return time_alternately(steps, device, log, "side by side", seconds=seconds)


def _subject_of(variant: Variant, base: Subject) -> Subject | VariantRow:
    """A variant that has warmed up, or, where it takes no turns, its row with the reason."""
    if variant.reason is not None:
        return VariantRow(variant.name, None, None, variant.reason)
    try:
        recipe = override_recipe(base.trainer.run.recipe, [variant.override], variant.name)
        asked, before = recipe.train.cudnn_benchmark, base.trainer.run.recipe.train.cudnn_benchmark
        benchmark = base.benchmark if asked == before else asked == "on"
        subject = Subject(variant.name, like(base.trainer, recipe), base.held, benchmark)
        subject.warm_up()
    except torch.OutOfMemoryError:
        reason = "does not fit into the memory alongside the others"
    except DivergedError:
        reason = "the loss of random weights is not finite"
    except DetcliError as error:
        reason = str(error).splitlines()[0]
    else:
        return subject
    return VariantRow(variant.name, None, None, reason)


def slow_convolution(device: torch.device) -> str | None:
    """Why bfloat16 is not worth trying: a CPU that does not compute in it takes minutes for
    a step. None where it does, and on CUDA."""
    if device.type != "cpu":
        return None
    full, half = (_convolution_seconds(dtype) for dtype in (torch.float32, torch.bfloat16))
    if half < FAR_SLOWER * full:
        return None
    return f"this CPU takes {half / full:.0f} times as long for a convolution in bfloat16"


def _convolution_seconds(dtype: torch.dtype) -> float:
    x, weight = torch.randn(1, 64, 32, 32, dtype=dtype), torch.randn(64, 64, 3, 3, dtype=dtype)
    seconds = []
    for _ in range(4):  # the first one loads and prepares
        began = time.perf_counter()
        torch.conv2d(x, weight, padding=1)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
