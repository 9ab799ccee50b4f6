"""Arguments and options that several verbs share, each stated once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Recipe file, or name of a shipped recipe.")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder or checkpoint.")]
RunOrRecipe = Annotated[
    str, typer.Argument(metavar="RUN", help="Run folder, checkpoint, or recipe.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Override recipe values: optim.lr=0.01."),
]
Tricks = Annotated[
    list[str] | None,
    typer.Option("--trick", help="Trick to apply (`recipes tricks`), or its file; repeatable."),
]
TrainSeed = Annotated[int | None, typer.Option("--seed", help="Short for train.seed=N.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed of the bootstrap.")]
Bootstrap = Annotated[
    int, typer.Option("--bootstrap", min=1, help="Resamples for the confidence intervals.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, or GPU indices such as 0 or 0,1.")
]
Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", help="Weights to load, if a recipe is given.")
]
Split = Annotated[
    str | None, typer.Option("--split", help="train, val or test; default: the recipe's.")
]
Classwise = Annotated[bool, typer.Option("--classwise", help="Also print a table per class.")]
AllowThreshold = Annotated[
    bool,
    typer.Option(
        "--allow-threshold",
        help="Accept predictions that were already score-thresholded (biases AP).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors and the result.")]
