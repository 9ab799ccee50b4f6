"""`detcli weights import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detcli.cli.options import Json, Overrides, Quiet
from detcli.cli.output import print_json, say

app = typer.Typer(no_args_is_help=True)


Toolbox = Literal[
    "mmdetection",
    "torchvision",
    "centernet",
    "tianxiaomo",
    "darknet",
    "detr",
    "deformable-detr",
    "transformers",
]


@app.callback()
def weights() -> None:
    """Import checkpoints from other toolboxes."""


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Downloaded checkpoint.")],
    overrides: Overrides = None,
    source: Annotated[
        Toolbox, typer.Option("--from", help="Toolbox that wrote the checkpoint.")
    ] = "mmdetection",
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of the same architecture; default: a shipped one.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class names of the checkpoint in order, comma-separated, if it has none."
        ),
    ] = None,
    to_classes: Annotated[
        str | None,
        typer.Option(
            help="Class names of your data, comma-separated: the class head is remapped by name, "
            "new classes are randomly initialised."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output file; default FILE.detcli.pt next to it.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert a public checkpoint into one for train --weights, eval and predict."""
    from detcli.engine.run.import_weights import import_weights

    done = import_weights(
        file,
        source,
        recipe=recipe,
        overrides=overrides or (),
        classes=_names(classes),
        to_classes=_names(to_classes),
        out=out if out is not None else file.with_suffix(".detcli.pt"),
    )
    for note in done.notes:
        say(note, quiet=quiet)
    if as_json:
        print_json(
            {
                "checkpoint": str(done.path),
                "recipe": done.recipe.name,
                "tensors": done.num_tensors,
                "classes": list(done.class_names),
            }
        )
        return
    print(
        f"{done.path}: {done.num_tensors} tensors, all matched; recipe {done.recipe.name}, "
        f"{len(done.class_names)} classes"
    )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]
