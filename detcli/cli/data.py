"""`detcli data`: preview augmented images, inject hard negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option

from detcli.cli.options import Device, Json, Overrides, Quiet, RecipeName, Run, TrainSeed, Tricks
from detcli.cli.output import print_json, print_table, say
from detcli.errors import UsageError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Preview augmented images; inject hard negatives."""


@app.command()
def preview(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    trick: Tricks = None,
    num: Annotated[int, Option(min=1, max=400, help="Number of images on the sheet.")] = 16,
    split: Annotated[
        Literal["train", "val", "test"], Option(help="Dataset split; only train is augmented.")
    ] = "train",
    seed: TrainSeed = None,
    out: Annotated[Path, Option(help="PNG file to write.")] = Path("preview.png"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Contact sheet of augmented training images, their boxes and the augmentations applied."""
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
            ("image", "size", "boxes", "ignored", "augmentations"),
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
            say(f"{name} was applied to none of these {len(images)} images", quiet=quiet)


PatchesOut = Annotated[Path, Option("--out", help="New folder to write.")]
Into = Annotated[
    Path | None, Option(help="Folder of background images; without it, write only patches.")
]
PatchSplit = Annotated[Literal["train", "val", "test"], Option("--split", help="Source split.")]
FalsePositives = Annotated[int, Option(min=0, help="Unlabelled false positives pasted per image.")]
Objects = Annotated[int, Option(min=0, help="Labelled objects pasted per image.")]
MinScore = Annotated[float, Option(min=0, max=1, help="Score threshold of the false positives.")]
MaxPatches = Annotated[int, Option(min=1, help="Maximum patches of each kind.")]
Places = Annotated[int, Option(min=1, help="Positions tried per patch.")]
Threshold = Annotated[
    float, Option(min=0, help="Least mutual information of patch and background, in nats.")
]
Blend = Annotated[Literal["poisson", "inpaint"], Option(help="Blending of the patch border.")]
Limit = Annotated[int | None, Option(min=1, help="Use only the first N images of --into.")]
PatchSeed = Annotated[int, Option("--seed", min=0, help="Random seed of patches and positions.")]


@app.command()
def inject(
    run: Run,
    overrides: Overrides = None,
    *,
    out: PatchesOut,
    into: Into = None,
    split: PatchSplit = "train",
    false_positives: FalsePositives = 2,
    objects: Objects = 1,
    min_score: MinScore = 0.3,
    max_patches: MaxPatches = 1000,
    places: Places = 10,
    threshold: Threshold = 0.2,
    blend: Blend = "poisson",
    limit: Limit = None,
    seed: PatchSeed = 0,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Paste a run's false positives, and real objects, into background images."""
    from detcli.engine.detect.predict import find_images
    from detcli.engine.inject import inject
    from detcli.engine.run import distributed
    from detcli.engine.run.log import RunLog

    files = find_images([str(into)])[:limit] if into is not None else []
    settings = inject.Settings(false_positives, objects, places, threshold, blend, seed)
    ranks = distributed.start_alone(device, "data inject")
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
