"""`detcli lr-scale`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detcli.cli.options import Json, Overrides, Quiet, Tricks
from detcli.cli.output import print_json, print_table, say
from detcli.engine.lr_scale import report as lr_report
from detcli.engine.lr_scale.rules import (
    COMMON,
    RULES,
    Base,
    Scaled,
    StepBatch,
    base_of,
    epochs_of,
    scale,
)
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.recipe import LoadedRecipe, Recipe
    from detcli.recipe.sections.data import Data

STEPS, MIN_LR, MAX_LR = 100, 1e-6, 1.0  # of the range test
FEWEST_STEPS = 10


def command(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe file or name; default: 0.02 for 8 GPUs x 2 images, SGD."),
    ] = None,
    overrides: Overrides = None,
    trick: Tricks = None,
    gpus: Annotated[int, typer.Option(help="Processes.")] = 1,
    imgs_per_gpu: Annotated[
        int | None, typer.Option(help="Images per process and step; default: the recipe's, or 2.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Batches per optimiser step; default: the recipe's, or 1.")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="linear, sqrt or none; default: the recipe's, or the optimiser's."),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="sgd or adamw; default: the recipe's, or sgd.")
    ] = None,
    base_lr: Annotated[
        float | None, typer.Option(help="The rate to scale; default: the recipe's optim.lr.")
    ] = None,
    base_batch: Annotated[
        int | None, typer.Option(help="Images per step it is for; default: optim.lr_batch.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Training images; default: counted where the data is.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Short for schedule.epochs=N.")] = None,
    iterations: Annotated[int | None, typer.Option(help="How many epochs are N steps?")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the recipe for this batch size to a YAML file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    find: Annotated[
        bool, typer.Option("--find", help="Learning-rate range test on the recipe's data.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help=f"--find: steps; default {STEPS}.")] = None,
    min_lr: Annotated[
        float | None, typer.Option(help=f"--find: first rate; default {MIN_LR:g}.")
    ] = None,
    max_lr: Annotated[
        float | None, typer.Option(help=f"--find: last rate; default {MAX_LR:g}.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="--find: cpu, cuda, or an index.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="--find: folder; default runs/<name>_lr_find/<n>.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Which learning rate for this batch size? Warm-up, schedule and averages follow."""
    above_zero(
        gpus=gpus,
        imgs_per_gpu=imgs_per_gpu,
        accumulate=accumulate,
        base_lr=base_lr,
        base_batch=base_batch,
        images=images,
        epochs=epochs,
        iterations=iterations,
        steps=steps,
        min_lr=min_lr,
        max_lr=max_lr,
    )
    one_of("--rule", rule, RULES)
    one_of("--optimizer", optimizer, COMMON)
    check_needs("--find", find, steps=steps, min_lr=min_lr, max_lr=max_lr, device=device, out=out)
    check_needs("a RECIPE", recipe is not None, write=write, find=find or None)
    if write is not None:
        check_target(write, force)
    plan = (steps or STEPS, min_lr or MIN_LR, max_lr or MAX_LR)
    check_plan(*plan)

    loaded = None if recipe is None else load(recipe, overrides or (), trick or (), epochs)
    start = common_base(optimizer, epochs) if loaded is None else base_of(loaded.recipe)
    base = choose_base(start, optimizer, rule, base_lr, base_batch)
    step = choose_step(loaded, gpus, imgs_per_gpu, accumulate)
    if images is None and loaded is not None:
        images = count_images(loaded.recipe.data)
    scaled = scale(base, step, images)
    document = lr_report.to_json(scaled) | {
        "recipe": None if loaded is None else str(loaded.source)
    }
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


def above_zero(**options: float | None) -> None:
    """Refuse numbers that are not above 0. Raises UsageError."""
    for name, value in options.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{flag(name)} {value:g}: expected a number above 0")


def flag(name: str) -> str:
    """The option behind a parameter's name."""
    return "--" + name.replace("_", "-")


def one_of(option: str, value: str | None, allowed: Iterable[str]) -> None:
    """Refuse an unknown word. Raises UsageError."""
    if value is not None and value not in allowed:
        raise UsageError(f"{option} {value}: expected {', '.join(allowed)}")


def check_needs(needed: str, is_there: bool, **options: object) -> None:
    """Refuse options that would do nothing. Raises UsageError."""
    given = [flag(name) for name, value in options.items() if value is not None]
    if given and not is_there:
        raise UsageError(f"{', '.join(given)}: acts only with {needed}")


def check_plan(steps: int, min_lr: float, max_lr: float) -> None:
    """Refuse a range test without a range. Raises UsageError."""
    if steps < FEWEST_STEPS:
        raise UsageError(f"--steps {steps}: expected at least {FEWEST_STEPS}")
    if min_lr >= max_lr:
        raise UsageError(f"--min-lr {min_lr:g}: expected less than --max-lr {max_lr:g}")


def check_target(path: Path, force: bool) -> None:
    """Refuse a file that must not be written. Raises UsageError."""
    if path.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"--write {path}: expected a file that ends in .yaml")
    if path.exists() and not force:
        raise UsageError(f"--write {path}: exists already; another name, or --force to replace it")


def load(
    recipe: str, overrides: Sequence[str], tricks: Sequence[str], epochs: int | None
) -> LoadedRecipe:
    """The recipe as `train` would resolve it. Raises RecipeError, UsageError."""
    from detcli.recipe import load_recipe

    for argument in overrides:
        if argument.split("=")[0].strip() == "optim.lr":
            raise UsageError(
                f"{argument}: `train` uses such a rate as it is; to scale one from here, "
                f"say --base-lr {argument.partition('=')[2]}"
            )
    length = () if epochs is None else (f"schedule.epochs={epochs}",)
    return load_recipe(recipe, [*overrides, *length], tricks)


def common_base(optimizer: str | None, epochs: int | None) -> Base:
    """What is scaled where there is no recipe: the usual rate of an optimiser, and 12 epochs."""
    base = COMMON[optimizer or "sgd"]
    if epochs is None:
        return base
    from detcli.recipe.sections.schedule import Schedule

    return base._replace(epochs=epochs, milestones=Schedule(epochs=epochs).milestone_epochs)


def choose_base(
    start: Base,
    optimizer: str | None,
    rule: str | None,
    base_lr: float | None,
    base_batch: int | None,
) -> Base:
    """The base with what was typed; another optimiser brings its own usual rate and rule."""
    if optimizer is not None and optimizer != start.optimizer:
        usual = COMMON[optimizer]
        start = start._replace(optimizer=optimizer, lr=usual.lr, batch=usual.batch, rule=usual.rule)
    return start._replace(
        lr=base_lr or start.lr,
        batch=base_batch or start.batch,
        rule=rule or start.rule,
    )


def choose_step(
    loaded: LoadedRecipe | None, gpus: int, imgs_per_gpu: int | None, accumulate: int | None
) -> StepBatch:
    """The batch that was typed, completed by the recipe's."""
    per_gpu, batches = 2, 1
    if loaded is not None:
        per_gpu, batches = loaded.recipe.data.batch_per_rank, loaded.recipe.train.accumulate
    return StepBatch(gpus, imgs_per_gpu or per_gpu, accumulate or batches)


def choice_warnings(start: Base, base: Base, base_lr: float | None) -> Iterator[str]:
    """What to know about an optimiser that the base was not tuned for."""
    if start.optimizer == base.optimizer:
        return
    if base_lr is None:
        yield (
            f"the base is for {start.optimizer}, and rates do not carry over (note 002): scaled "
            f"is {base.lr:g} at {base.batch} images, usual with {base.optimizer}"
        )
    yield f"weight decay {base.weight_decay:g} is {start.optimizer}'s too: look at it again"


def count_images(data: Data) -> int | None:
    """How many images the training split has, without opening one; None where the data is not
    here or cannot be read."""
    if data.shapes is not None:
        return data.shapes.num_train
    root, split = Path(data.root), data.train
    assert split is not None, "only the generated set has no split"
    try:
        if data.format == "voc":
            path = root / "ImageSets" / "Main" / f"{split.split}.txt"
            return sum(bool(line.strip()) for line in path.read_bytes().splitlines()) or None
        if data.format == "coco":
            return count_listed((root / str(split.annotations)).read_bytes())
    except (OSError, ValueError, KeyError):
        return None
    from detcli.data.images import SUFFIXES  # brings numpy

    folders = os.walk(root / str(split.images), followlinks=True)
    return sum(name.lower().endswith(SUFFIXES) for _, _, names in folders for name in names) or None


def count_listed(annotations: bytes) -> int | None:
    """The images of a COCO file; None where there are none, or where it cannot be read."""
    import msgspec

    try:
        # Raw: skipped, not decoded.
        parts = msgspec.json.decode(annotations, type=dict[str, msgspec.Raw])
        return len(msgspec.json.decode(parts["images"], type=list[msgspec.Raw])) or None
    except msgspec.MsgspecError:
        return None


def asked_length(iterations: int, scaled: Scaled, images: int | None) -> dict[str, float]:
    """A number of iterations in epochs. Raises UsageError where the images are not counted."""
    if images is None:
        raise UsageError(f"--iterations {iterations}: of how many images? say --images N")
    return {"iterations": iterations, "epochs": epochs_of(iterations, scaled.step.images, images)}


def short_run_warnings(asked: Mapping[str, float], scaled: Scaled) -> Iterator[str]:
    """Iterations that were counted for another batch size see another number of images."""
    length = scaled.length
    if length is not None and asked["epochs"] < length.epochs:
        yield (
            f"{asked['iterations']} iterations of {scaled.step.images} images are "
            f"{asked['epochs']:.3g} epochs, the schedule has {length.epochs}: it takes "
            f"{length.iterations}"
        )


def rescaled(loaded: LoadedRecipe, scaled: Scaled) -> Recipe:
    """The recipe with everything at the new batch size; where a setting has changed, without the
    figures that others reached. Raises RecipeError."""
    from detcli.recipe import diff_recipes, override_recipe

    base, step = scaled.base, scaled.step
    settings: dict[str, Any] = {
        "optim.name": base.optimizer,
        "optim.lr": scaled.lr,
        "optim.lr_batch": step.images,
        "optim.lr_rule": base.rule,
        "data.batch_per_rank": step.imgs_per_gpu,
        "train.accumulate": step.accumulate,
    }
    settings |= {each.key: each.value for each in scaled.adjustments if each.value != each.base}
    overrides = [f"{key}={value}" for key, value in settings.items()]
    recipe = override_recipe(loaded.recipe, overrides, str(loaded.source))
    if diff_recipes(loaded.recipe, recipe):
        return override_recipe(recipe, ["expected=[]"], str(loaded.source))
    return recipe


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe under the name of its file. Raises RecipeError, UsageError."""
    from detcli.recipe import dump_yaml, override_recipe

    named = override_recipe(recipe, [f"name={path.stem!r}"], str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_yaml(named), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--write {path}: cannot be written: {error.strerror}") from error


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
    for line in lr_report.summary_lines(scaled, document["asked"]):
        print(line)
    if scaled.adjustments:
        print_table(lr_report.ADJUSTMENT_HEADER, lr_report.adjustment_rows(scaled))
    print_table(lr_report.TABLE_HEADER, lr_report.table_rows(scaled))
    for sentence in found:
        print(sentence)
    for warning in document["warnings"]:
        say(f"warning: {warning}")
