"""`detcli lr-scale`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detcli.cli.options import Json, Overrides, Quiet, Tricks, check_acting
from detcli.cli.output import print_json, print_table, say
from detcli.engine.lr_scale import report
from detcli.engine.lr_scale.base import (
    COMMON,
    base_of,
    choice_warnings,
    choose_base,
    choose_step,
    common_base,
    count_images,
    load,
)
from detcli.engine.lr_scale.rewrite import check_target, rescaled, write_recipe
from detcli.engine.lr_scale.rules import RULES, Scaled, asked_length, scale, short_run_warnings
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.recipe import Recipe

STEPS, MIN_LR, MAX_LR = 100, 1e-6, 1.0  # of the range test
FEWEST_STEPS = 10


def above_zero(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """Refuse a number that is not above 0. Raises UsageError."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{parameter.opts[0]} {value:g}: expected a number above 0")
    return value


def one_of(allowed: Iterable[str]) -> Callable[[typer.CallbackParam, str | None], str | None]:
    """Refuse any other word. Raises UsageError."""

    def check(parameter: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise UsageError(f"{parameter.opts[0]} {value}: expected {', '.join(allowed)}")
        return value

    return check


def number(text: str) -> Any:
    """An option whose value is above 0."""
    return typer.Option(callback=above_zero, help=text)


RecipeName = Annotated[
    str | None,
    typer.Argument(help="Recipe file or name (default: lr 0.02 for 8 GPUs x 2 images, SGD)."),
]
Gpus = Annotated[int, number("Number of GPUs (training processes).")]
ImagesPerGpu = Annotated[int | None, number("Batch size per GPU (default: the recipe's, or 2).")]
Accumulate = Annotated[
    int | None, number("Gradient accumulation: batches per step (default: the recipe's, or 1).")
]
Rule = Annotated[
    str | None,
    typer.Option(
        callback=one_of(RULES),
        help="Scaling rule: linear, sqrt or none (default: the recipe's, or the optimiser's).",
    ),
]
Optimizer = Annotated[
    str | None,
    typer.Option(callback=one_of(COMMON), help="sgd or adamw (default: the recipe's, or sgd)."),
]
BaseLr = Annotated[float | None, number("Learning rate to scale (default: optim.lr).")]
BaseBatch = Annotated[
    int | None, number("Batch size that --base-lr was tuned for (default: optim.lr_batch).")
]
Images = Annotated[int | None, number("Training images (default: counted in the data set).")]
Epochs = Annotated[int | None, number("Training epochs; short for schedule.epochs=N.")]
Iterations = Annotated[int | None, number("Convert N iterations (training steps) to epochs.")]
Write = Annotated[
    Path | None, typer.Option(help="Write the recipe, scaled to this batch size, as YAML.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
Find = Annotated[
    bool, typer.Option("--find", help="Learning-rate range test on the recipe's training data.")
]
Steps = Annotated[int | None, number(f"--find: training steps (default {STEPS}).")]
MinLr = Annotated[float | None, number(f"--find: lowest learning rate (default {MIN_LR:g}).")]
MaxLr = Annotated[float | None, number(f"--find: highest learning rate (default {MAX_LR:g}).")]
Device = Annotated[str | None, typer.Option(help="--find: cpu, cuda, or the index of a GPU.")]
Out = Annotated[
    Path | None, typer.Option(help="--find: output folder (default runs/<name>_lr_find/<n>).")
]


def command(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    trick: Tricks = None,
    gpus: Gpus = 1,
    imgs_per_gpu: ImagesPerGpu = None,
    accumulate: Accumulate = None,
    rule: Rule = None,
    optimizer: Optimizer = None,
    base_lr: BaseLr = None,
    base_batch: BaseBatch = None,
    images: Images = None,
    epochs: Epochs = None,
    iterations: Iterations = None,
    write: Write = None,
    force: Force = False,
    find: Find = False,
    steps: Steps = None,
    min_lr: MinLr = None,
    max_lr: MaxLr = None,
    device: Device = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Scale the learning rate, warm-up, EMA and schedule to a batch size."""
    test = {"steps": steps, "min_lr": min_lr, "max_lr": max_lr, "device": device, "out": out}
    check_acting(find, "with --find", **test)
    check_acting(recipe is not None, "with a RECIPE", write=write, find=find or None)
    if write is not None:
        check_target(write, force)
    plan = range_of_test(steps, min_lr, max_lr)
    loaded = None if recipe is None else load(recipe, overrides or (), trick or (), epochs)
    used = None if loaded is None else loaded.recipe
    start = common_base(optimizer, epochs) if used is None else base_of(used)
    base = choose_base(start, optimizer, rule, base_lr, base_batch)
    if images is None and used is not None:
        images = count_images(used.data)
    scaled = scale(base, choose_step(used, gpus, imgs_per_gpu, accumulate), images)
    document = report.to_json(scaled) | {"recipe": None if loaded is None else str(loaded.source)}
    document["warnings"][:0] = choice_warnings(start, base, base_lr)
    if iterations is not None:
        document["asked"] = asked_length(iterations, scaled, images)
        document["warnings"] += short_run_warnings(document["asked"], scaled)
    said: list[str] = []
    if loaded is not None:
        resolved = rescaled(loaded, scaled)
        if write is not None:
            write_recipe(write, resolved)
            document["written"] = str(write)
            say(f"wrote {write}: train it with --gpus {gpus}", quiet=quiet)
        if find:
            document["find"], said = run_find(resolved, gpus, plan, device, out, quiet)
    if as_json:
        print_json(document)
    else:
        print_text(scaled, document, said, quiet)


def range_of_test(
    steps: int | None, min_lr: float | None, max_lr: float | None
) -> tuple[int, float, float]:
    """Steps, first and last rate of the range test. Raises UsageError where that is no range."""
    plan = (steps or STEPS, min_lr or MIN_LR, max_lr or MAX_LR)
    if plan[0] < FEWEST_STEPS:
        raise UsageError(f"--steps {plan[0]}: expected at least {FEWEST_STEPS}")
    if plan[1] >= plan[2]:
        raise UsageError(f"--min-lr {plan[1]:g}: expected less than --max-lr {plan[2]:g}")
    return plan


def run_find(
    recipe: Recipe,
    gpus: int,
    plan: tuple[int, float, float],
    device: str | None,
    out: Path | None,
    quiet: bool,
) -> tuple[dict[str, Any], list[str]]:
    """The range test as plain values, and what it says."""
    from detcli.engine.train import lr_find

    found, paths = lr_find.run(recipe, gpus, plan, device, out, quiet=quiet)
    for path in paths:
        say(f"wrote {path}", quiet=quiet)
    files = [str(path) for path in paths]
    return lr_find.to_json(found) | {"files": files}, lr_find.sentences(found)


def print_text(
    scaled: Scaled, document: Mapping[str, Any], found: Iterable[str], quiet: bool
) -> None:
    """The answer for a reader; the bare rate where little is to be said."""
    if quiet:
        print("\n".join([f"{scaled.lr:g}", *found]))
        return
    for line in report.summary_lines(scaled, document["asked"]):
        print(line)
    if scaled.adjustments:
        print_table(report.ADJUSTMENT_HEADER, report.adjustment_rows(scaled))
    print_table(report.TABLE_HEADER, report.table_rows(scaled))
    for sentence in found:
        print(sentence)
    for warning in document["warnings"]:
        say(f"warning: {warning}")
