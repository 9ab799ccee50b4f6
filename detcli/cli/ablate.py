"""`detcli ablate`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from detcli.cli.options import Bootstrap, Json, Overrides, Quiet, RecipeName
from detcli.cli.output import print_json, print_table, say
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.engine.ablate.plan import Plan
    from detcli.engine.ablate.session import Executor


TrickNames = Annotated[str, Option(help="Trick names, comma-separated: ema,mosaic,giou.")]
Mode = Annotated[
    Literal["add-one", "leave-one-out", "all"],
    Option(help="Baseline + each trick, all tricks - each, or both."),
]
Seeds = Annotated[int, Option(min=1, help="Seeds per configuration, from train.seed on.")]
Budget = Annotated[float, Option(min=0.001, max=1, help="Fraction of the epochs to train.")]
ExecutorName = Annotated[Literal["local", "ray"], Option(help="This machine, or a Ray cluster.")]
Address = Annotated[str, Option(help="ray: cluster address; auto, or local for this machine.")]
Gpus = Annotated[int | None, Option(min=0, help="GPUs per trial; default: 1 if available.")]
Cpus = Annotated[int, Option(min=1, help="ray: CPU cores reserved per trial.")]
Jobs = Annotated[int | None, Option(min=1, help="local: parallel trials; default: one per GPU.")]
Out = Annotated[
    Path | None,
    Option(help="Output folder (default ablations/<name>); an existing ablation is resumed."),
]
DryRun = Annotated[bool, Option("--dry-run", help="List the trials, train and write nothing.")]


def command(
    recipe: RecipeName,
    overrides: Overrides = None,
    tricks: TrickNames = "",
    mode: Mode = "add-one",
    seeds: Seeds = 1,
    budget: Budget = 1.0,
    executor: ExecutorName = "local",
    address: Address = "auto",
    gpus: Gpus = None,
    cpus: Cpus = 1,
    jobs: Jobs = None,
    out: Out = None,
    bootstrap: Bootstrap = 1000,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ablation study: train with and without each trick; AP gain, interval and cost."""
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
        say(f"interrupted; the same command resumes in {folder}")
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
