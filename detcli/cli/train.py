"""`detcli train`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detcli.cli.output import Json, Overrides, Quiet, Tricks, print_json, print_table
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.engine.train.modes import Outcome


def command(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe file or name; with --resume also a run folder.")
    ] = None,
    overrides: Overrides = None,
    trick: Tricks = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<name>/<n>.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run folder, or a recipe's newest run.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Start from the weights of a checkpoint.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, or indices: 0 or 0,1.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Short for train.seed=N.")] = None,
    overfit: Annotated[
        int | None, typer.Option(min=1, help="Learn N images by heart; exit code 1 if it fails.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One forward and backward pass; writes nothing.")
    ] = False,
    replay: Annotated[
        Path | None, typer.Option(help="Run a batch again that was saved when training diverged.")
    ] = None,
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
                f"--resume goes on exactly and takes no overrides, got {argument!r}; "
                "to go on with other settings start a new run with --weights"
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
