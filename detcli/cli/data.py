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

    from detcli.engine.pictures import preview as sheets
    from detcli.engine.run.build import read_split

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


@app.command()
def inject(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or a checkpoint.")],
    overrides: Overrides = None,
    *,
    out: Annotated[Path, typer.Option(help="The new folder.")],
    into: Annotated[
        Path | None,
        typer.Option(help="Folder of images without objects; without it, only patches."),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option(help="Where the patches come from.")
    ] = "train",
    false_positives: Annotated[
        int, typer.Option(min=0, help="Wrong detections per image, put there without a label.")
    ] = 2,
    objects: Annotated[int, typer.Option(min=0, help="Labelled objects per image.")] = 1,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Wrong detections from this score on.")
    ] = 0.3,
    max_patches: Annotated[
        int, typer.Option(min=1, help="Patches of each kind that are cut out at most.")
    ] = 1000,
    places: Annotated[int, typer.Option(min=1, help="Places tried for each patch.")] = 10,
    threshold: Annotated[
        float, typer.Option(min=0, help="Least mutual information of patch and place, in nats.")
    ] = 0.2,
    blend: Annotated[
        Literal["poisson", "inpaint"], typer.Option(help="How the seam is hidden.")
    ] = "poisson",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images of DIR.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of patches and places.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, or indices: 0 or 0,1.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a run wrongly detected, and objects, at plausible places of images without objects."""
    from detcli.engine.detect.predict import find_images
    from detcli.engine.inject import inject
    from detcli.engine.run import distributed
    from detcli.engine.run.log import RunLog

    files = find_images([str(into)])[:limit] if into is not None else []
    settings = inject.Settings(false_positives, objects, places, threshold, blend, seed)
    ranks = distributed.start(device)
    if ranks.world_size > 1:
        raise UsageError("data inject: runs in one process; start it without torchrun")
    log = RunLog(quiet=quiet)
    with inject.new_folder(out) as folder:
        patches, category_ids = inject.patches_of_run(
            run,
            overrides or (),
            split,
            ranks,
            log,
            min_score=min_score,
            max_patches=max_patches,
            seed=seed,
        )
        found = inject.write_injected(folder, files, patches, category_ids, settings, log)
    if as_json:
        print_json(inject.to_json(out, patches, found))
    else:
        print_table(inject.HEADER, inject.table_rows(patches, found))
        print(f"results: {out}")
