"""`detcli weights import`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from detcli.cli.output import Json, Overrides, Quiet, print_json, say

app = typer.Typer(no_args_is_help=True)


class Toolbox(str, Enum):
    """Where a checkpoint comes from."""

    mmdetection = "mmdetection"
    torchvision = "torchvision"
    centernet = "centernet"
    tianxiaomo = "tianxiaomo"
    darknet = "darknet"
    detr = "detr"
    deformable_detr = "deformable-detr"
    transformers = "transformers"


@app.callback()
def weights() -> None:
    """Bring in public checkpoints."""


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The downloaded checkpoint.")],
    overrides: Overrides = None,
    source: Annotated[
        Toolbox, typer.Option("--from", help="The toolbox that wrote it.")
    ] = Toolbox.mmdetection,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of the same architecture; default: the shipped one.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="The file's class names in order, separated by commas, if it has none."),
    ] = None,
    to_classes: Annotated[
        str | None,
        typer.Option(
            help="Class names of your data, separated by commas: the class head is rearranged by "
            "name, new classes start fresh."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default FILE.detcli.pt beside it.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a public checkpoint into one that train --weights, eval and predict take."""
    from detcli.engine.run.import_weights import import_weights

    done = import_weights(
        file,
        source.value,
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
        f"{done.path}: {done.num_tensors} tensors, every one matched; recipe {done.recipe.name}, "
        f"{len(done.class_names)} classes"
    )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]
