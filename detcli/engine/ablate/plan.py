"""What an ablation trains: systems (a recipe with some tricks), each with several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from detcli.errors import RecipeError, UsageError
from detcli.recipe import LoadedRecipe, Recipe, diff_recipes, load_recipe, override_recipe

Mode = Literal["add-one", "leave-one-out", "all"]
EXPLICIT_LR = "optim.lr"


@dataclass(frozen=True)
class System:
    """A recipe with tricks. trick: the one it is there to judge, None for a baseline; against:
    name of the system that it is compared with; removes: it differs by the trick's absence."""

    name: str
    tricks: tuple[str, ...]
    recipe: Recipe
    trick: str | None = None
    against: str | None = None
    removes: bool = False


@dataclass(frozen=True)
class Plan:
    """Systems in the order of the table, baselines first; seeds of each; notes for the reader.

    explicit_lr: the command line names a learning rate, which training then takes as it is.
    """

    systems: tuple[System, ...]
    seeds: tuple[int, ...]
    notes: tuple[str, ...]
    explicit_lr: bool

    @property
    def baseline(self) -> System:
        return self.systems[0]


def make_plan(
    recipe: str,
    overrides: Sequence[str],
    tricks: Sequence[str],
    *,
    mode: Mode,
    seeds: int,
    budget: float,
) -> Plan:
    """Resolve every recipe that will be trained.

    mode: add-one holds base + trick against the base; leave-one-out holds all tricks but one
    against all of them; all does both, and all tricks against the base. budget: fraction of each
    recipe's epochs, warm-up and milestones that is trained.

    Raises RecipeError with a line for every fault of any of them, and UsageError for a trick that
    is named twice or changes nothing.
    """
    if not tricks:
        raise UsageError("--tricks: expected names, comma-separated, such as ema,mosaic,giou")
    names = [trick_name(trick) for trick in tricks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"--tricks: {', '.join(repeated)} is named more than once")
    base = load_recipe(recipe, overrides)
    systems = _resolve(base, recipe, overrides, list(tricks), mode)
    return Plan(
        tuple(_shortened(system, budget) for system in systems),
        tuple(base.recipe.train.seed + number for number in range(seeds)),
        base.notes,
        base.origins[EXPLICIT_LR] == "command line",
    )


def trick_name(trick: str) -> str:
    """A shipped trick's own name, or that of a file without its ending."""
    return Path(trick).stem if trick.endswith((".yaml", ".yml")) else trick


def _resolve(
    base: LoadedRecipe, recipe: str, overrides: Sequence[str], tricks: list[str], mode: Mode
) -> list[System]:
    wanted: list[tuple[str, tuple[str, ...], str | None, str | None, bool]] = []
    if mode in ("add-one", "all"):
        wanted += [("base", (), None, None, False)]
        wanted += [(trick_name(each), (each,), trick_name(each), "base", False) for each in tricks]
    if mode in ("leave-one-out", "all"):
        against = "base" if mode == "all" else None
        wanted += [("all", tuple(tricks), "all" if against else None, against, False)]
        for each in tricks:
            rest = tuple(other for other in tricks if other != each)
            name = trick_name(each)
            wanted += [(f"all-but-{name}", rest, name, "all", True)]
    systems, lines = [], []
    for name, chosen, trick, against, removes in wanted:
        try:
            resolved = load_recipe(recipe, overrides, chosen).recipe
        except RecipeError as error:
            lines += [f"{name}: {line}" if chosen else line for line in str(error).splitlines()]
            continue
        systems.append(System(name, chosen, resolved, trick, against, removes))
    if lines:
        raise RecipeError("\n".join(dict.fromkeys(lines)))
    _check_differences(systems)
    return systems


def _check_differences(systems: Sequence[System]) -> None:
    by_name = {system.name: system for system in systems}
    for system in systems:
        if system.against is None:
            continue
        if not diff_recipes(by_name[system.against].recipe, system.recipe):
            raise UsageError(
                f"--tricks: {system.trick} changes nothing in {system.recipe.name}: every key it "
                "sets has that value already, or one from the command line, which overrides "
                "tricks; leave it out, or start from another recipe (detcli recipes show --yaml)"
            )


def _shortened(system: System, budget: float) -> System:
    """The system as it will be trained: evaluated once, at the end, so that no epoch is chosen on
    the images that the comparison is about; only plateau needs to look at them on the way."""
    recipe = system.recipe
    schedule, ema = recipe.schedule, recipe.train.ema
    epochs = max(1, round(schedule.num_epochs * budget))
    changes = []
    if not (schedule.name == "plateau" and schedule.monitor == "AP"):
        changes.append("train.eval_every=0")
    if budget < 1:
        drops = {round(epoch * budget) for epoch in schedule.milestone_epochs}
        changes += [
            f"schedule.epochs={epochs}",
            f"schedule.warmup_steps={round(schedule.warmup_steps * budget)}",
        ]
        if schedule.name == "step":
            changes.append(f"schedule.milestones={sorted(d for d in drops if 0 < d < epochs)}")
        if ema is not None:
            changes.append(f"train.ema.warmup_steps={max(1, round(ema.warmup_steps * budget))}")
    return replace(system, recipe=override_recipe(recipe, changes, system.name))
