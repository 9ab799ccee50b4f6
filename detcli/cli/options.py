"""Arguments and options that several verbs share, each stated once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from detcli.errors import UsageError

RecipeName = Annotated[str, Argument(metavar="RECIPE", help="Recipe file or name.")]
Run = Annotated[str, Argument(metavar="RUN", help="Run folder or checkpoint.")]
RunOrRecipe = Annotated[str, Argument(metavar="RUN", help="Run folder, checkpoint, or recipe.")]
Overrides = Annotated[
    list[str] | None,
    Argument(metavar="[KEY=VALUE]...", help="Override recipe values: optim.lr=0.01."),
]
Tricks = Annotated[
    list[str] | None,
    Option("--trick", help="Trick to apply (`recipes tricks`), or its file; repeatable."),
]
TrainSeed = Annotated[int | None, Option("--seed", help="Short for train.seed=N.")]
Seed = Annotated[int, Option("--seed", min=0, help="Random seed of the bootstrap.")]
Bootstrap = Annotated[int, Option("--bootstrap", min=1, help="Bootstrap resamples (intervals).")]
Device = Annotated[str | None, Option("--device", help="cpu, cuda, or GPU indices: 0 or 0,1.")]
Checkpoint = Annotated[Path | None, Option("--checkpoint", help="Weights, if a recipe is given.")]
Split = Annotated[str | None, Option("--split", help="train, val or test; default: the recipe's.")]
Classwise = Annotated[bool, Option("--classwise", help="Also print a table per class.")]
AllowThreshold = Annotated[
    bool,
    Option(
        "--allow-threshold",
        help="Accept predictions that were already score-thresholded (biases AP).",
    ),
]
Json = Annotated[bool, Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, Option("--quiet", help="Print only errors and the result.")]


def check_acting(is_acting: bool, needed: str, **options: object) -> None:
    """Refuse options that would do nothing; `needed`: what they act on. Raises UsageError."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given and not is_acting:
        raise UsageError(f"{', '.join(given)}: acts only {needed}")
