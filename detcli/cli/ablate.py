"""`detcli ablate`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detcli.cli.output import Json, Overrides, Quiet, print_json, print_table, say
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.engine.ablate.plan import Plan
    from detcli.engine.ablate.session import Executor


def command(
    recipe: Annotated[str, typer.Argument(help="A recipe file or name.")],
    overrides: Overrides = None,
    tricks: Annotated[str, typer.Option(help="Names, comma-separated: ema,mosaic,giou.")] = "",
    mode: Annotated[
        Literal["add-one", "leave-one-out", "all"],
        typer.Option(help="Base + each trick, all tricks - each, or both."),
    ] = "add-one",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, from train.seed on.")] = 1,
    budget: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the epochs that is trained.")
    ] = 1.0,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[
        str, typer.Option(help="ray: the cluster's address; auto, or local for this machine.")
    ] = "auto",
    gpus: Annotated[
        int | None, typer.Option(min=0, help="Devices of each trial; default: 1 where there are.")
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, help="ray: cores that each trial waits for.")] = 1,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="local: trials at a time; default: one per device.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default ablations/<name>. Goes on with it.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=1, help="Resamples for the intervals.")] = 1000,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained; write nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Which tricks pay on this data, by how much, and is it more than noise?"""
    from detcli.engine.ablate import report, session
    from detcli.engine.ablate.outcome import evaluate_trials
    from detcli.engine.ablate.plan import make_plan
    from detcli.engine.run.log import RunLog

    names = [name.strip() for name in tricks.split(",") if name.strip()]
    plan = make_plan(recipe, overrides or (), names, mode=mode, seeds=seeds, budget=budget)
    folder = out if out is not None else Path("ablations") / plan.baseline.recipe.name
    options = ("--device", "cpu") if gpus == 0 else ("--gpus", str(gpus)) if gpus else ()
    trials = session.make_trials(plan, folder, options)
    session.check_folder(trials, folder)
    log = RunLog(quiet=quiet)
    announce(plan, folder, quiet)
    if dry_run:
        return
    try:
        with session.locked(folder) as lock:
            run = choose_executor(executor, lock, address=address, gpus=gpus, cpus=cpus, jobs=jobs)
            session.train_missing(trials, run, log)
            outcome = evaluate_trials(plan, trials, log, bootstrap)
            written = report.write_report(folder, outcome)
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on in {folder}")
        raise typer.Exit(130) from None
    if as_json:
        print_json(report.to_json(outcome))
    else:
        print_table(report.HEADER, report.table_rows(outcome))
    for note in outcome.notes:
        say(note, quiet=quiet)
    say(f"wrote {', '.join(path.name for path in written)} to {folder}", quiet=quiet)
    if outcome.failures:
        raise typer.Exit(1)


def choose_executor(
    name: str, lock: int, *, address: str, gpus: int | None, cpus: int, jobs: int | None
) -> Executor:
    """A function that trains trials and yields each when it has ended."""
    if name == "ray":
        from detcli.engine.ablate.cluster import run_on_ray

        if jobs is not None:
            raise UsageError("--jobs: acts only with --executor local; Ray starts what fits")
        return functools.partial(run_on_ray, address=address, gpus=gpus or 0, cpus=cpus)
    from detcli.engine.ablate.local import run_locally, slots
    from detcli.engine.ablate.trial import Processes

    return functools.partial(
        run_locally, environments=slots(gpus, jobs), processes=Processes((lock,))
    )


def announce(plan: Plan, folder: Path, quiet: bool) -> None:
    """What is about to be trained."""
    for system in plan.systems:
        epochs = system.recipe.schedule.num_epochs
        tricks = " + ".join(system.tricks) or "no trick"
        say(f"{system.name}: {tricks}, {epochs} epochs", quiet=quiet)
    count = len(plan.systems) * len(plan.seeds)
    say(f"{count} trials ({len(plan.seeds)} per line) in {folder}", quiet=quiet)
