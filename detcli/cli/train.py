"""`detcli train`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from detcli.cli.options import Device, Json, Overrides, Quiet, TrainSeed, Tricks
from detcli.cli.output import print_json, print_table
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.engine.train.modes import Outcome


RecipeOrRun = Annotated[
    str | None,
    Argument(metavar="[RECIPE]", help="Recipe file or name; with --resume also a run folder."),
]
Out = Annotated[Path | None, Option(help="Run folder; default runs/<name>/<n>.")]
Resume = Annotated[bool, Option("--resume", help="Resume a run folder, or a recipe's newest run.")]
Weights = Annotated[Path | None, Option(help="Checkpoint to initialise (fine-tune) from.")]
Gpus = Annotated[int, Option(min=1, help="GPUs (DDP processes) on this machine.")]
Overfit = Annotated[
    int | None,
    Option(min=1, help="Overfit N training images as a sanity check; exit 1 unless AP50 > 0.9."),
]
DryRun = Annotated[bool, Option("--dry-run", help="One forward and backward pass; write nothing.")]
Replay = Annotated[Path | None, Option(help="Rerun the batch saved when training diverged.")]


def command(
    recipe: RecipeOrRun = None,
    overrides: Overrides = None,
    trick: Tricks = None,
    out: Out = None,
    resume: Resume = False,
    weights: Weights = None,
    device: Device = None,
    gpus: Gpus = 1,
    seed: TrainSeed = None,
    overfit: Overfit = None,
    dry_run: DryRun = False,
    replay: Replay = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a detector from a recipe."""
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        from detcli.engine.run.distributed import launch

        raise typer.Exit(launch(gpus, ["-m", "detcli", *without_gpus(sys.argv[1:])]))
    folder = resume_folder(recipe, overrides or ()) if resume and recipe else None
    loaded = None
    if folder is None and replay is None:
        from detcli.recipe import load_recipe

        if recipe is None:
            raise UsageError("train: expected a recipe, for example recipes/atss_r18_shapes.yaml")
        seeding = () if seed is None else (f"train.seed={seed}",)
        loaded = load_recipe(recipe, [*(overrides or ()), *seeding], trick or ())

    from detcli.engine.run import distributed
    from detcli.engine.train import modes as session

    ranks = distributed.start(device)
    outcome: Outcome | dict[str, float]
    try:
        if replay is not None:
            outcome = session.replay(replay, ranks, quiet=quiet)
        elif folder is not None:
            outcome = session.resume_run(folder, ranks, quiet=quiet)
        else:
            assert loaded is not None, "without a run to resume or replay there is a recipe"
            if dry_run:
                outcome = session.dry_run(loaded, ranks, quiet=quiet)
            elif overfit is not None:
                outcome = session.check_overfit(loaded, overfit, ranks, out=out, quiet=quiet)
            else:
                outcome = session.new_run(loaded, ranks, out=out, weights=weights, quiet=quiet)
    finally:
        distributed.stop()
    finish(outcome, as_json=as_json, is_main=ranks.is_main)


def finish(outcome: Outcome | dict[str, float], *, as_json: bool, is_main: bool) -> None:
    """Print what came out, on rank 0, and exit with its code."""
    if isinstance(outcome, dict):
        if is_main:
            print_losses(outcome, as_json)
        return
    if is_main:
        print_outcome(outcome, as_json)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def resume_folder(recipe: str, rest: Sequence[str]) -> Path:
    """The run folder meant by `--resume FOLDER`, `RECIPE --resume FOLDER` or `RECIPE --resume`."""
    for argument in rest:
        if "=" in argument:
            raise UsageError(
                f"--resume: continues the run exactly and takes no overrides, got {argument!r}; "
                "for other settings start a new run with --weights"
            )
    for argument in (*reversed(rest), recipe):
        if Path(argument).is_dir():
            return Path(argument)
    if rest or ("/" in recipe and not recipe.endswith((".yaml", ".yml"))):
        raise UsageError(f"--resume {(*rest, recipe)[0]}: no such run folder")

    from detcli.engine.run import run_folder
    from detcli.recipe import load_recipe

    return run_folder.newest(load_recipe(recipe).recipe.name)


def without_gpus(arguments: Sequence[str]) -> list[str]:
    """The arguments for each of the processes that --gpus asks for."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--gpus":
            skip = True
        elif not argument.startswith("--gpus="):
            kept.append(argument)
    return kept


def print_losses(losses: dict[str, float], as_json: bool) -> None:
    """The loss terms of one batch."""
    if as_json:
        print_json({"losses": losses})
    else:
        print_table(("term", "loss"), [(name, f"{value:.6f}") for name, value in losses.items()])


def print_outcome(outcome: Outcome, as_json: bool) -> None:
    """The run folder and the metrics of the last evaluation."""
    from detcli.evaluation import report

    result = outcome.result
    if as_json:
        print_json(
            {
                "run": str(outcome.folder),
                "best": {"AP": outcome.best_ap, "epoch": outcome.best_epoch},
                "metrics": None if result is None else result.metrics,
                "per_class": None if result is None else result.per_class,
            }
        )
        return
    if result is not None:
        print_table(report.SUMMARY_HEADER, report.summary_rows(result))
        print_table(report.CLASS_HEADER, report.class_rows(result))
    print(f"run folder: {outcome.folder}")
