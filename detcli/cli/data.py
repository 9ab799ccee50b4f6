"""`detcli data`: look at a data set as the network will see it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detcli.cli.output import Json, Overrides, Quiet, Tricks, print_json, print_table, say
from detcli.errors import UsageError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Look at a data set as the network will see it."""


@app.command()
def preview(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file or name.")],
    overrides: Overrides = None,
    *,
    trick: Tricks = None,
    num: Annotated[int, typer.Option(min=1, max=400, help="Images on the sheet.")] = 16,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option(help="Only train is augmented.")
    ] = "train",
    seed: Annotated[int | None, typer.Option(help="Short for train.seed=N.")] = None,
    out: Annotated[Path, typer.Option(help="The picture to write, a PNG.")] = Path("preview.png"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """A contact sheet of augmented training images with their boxes, and what acted on each."""
    from detcli.recipe import load_recipe

    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: expected a name that ends in .png")
    seeding = () if seed is None else (f"train.seed={seed}",)
    loaded = load_recipe(recipe, [*(overrides or ()), *seeding], trick or ())
    for note in loaded.notes:
        say(note, quiet=quiet)

    from detcli.engine import preview as sheets
    from detcli.engine.setup import read_split

    records = read_split(loaded.recipe, split)
    shown = sheets.preview(loaded.recipe, records, train=split == "train", num_images=num)
    sheets.write_sheet(shown, out)
    images = [each.as_dict() for each in shown.seen]
    if as_json:
        print_json({"sheet": str(out), "images": images, "fired": shown.fired})
    else:
        print_table(
            ("image", "size", "boxes", "ignored", "what acted"),
            [
                (
                    Path(each["image"]).name,
                    f"{each['height']}x{each['width']}",
                    str(each["boxes"]),
                    str(each["ignored"]),
                    ", ".join(each["fired"]) or "-",
                )
                for each in images
            ],
        )
        print(f"sheet: {out}")
    for name, count in shown.fired.items():
        if count == 0:
            say(f"{name} never acted on these {len(images)} images", quiet=quiet)
