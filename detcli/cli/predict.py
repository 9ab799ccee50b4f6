"""`detcli predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detcli.cli.output import Json, Quiet, print_json, print_table
from detcli.errors import UsageError


def command(
    run: Annotated[str, typer.Argument(help="A run folder or a checkpoint.")],
    images: Annotated[list[str], typer.Argument(help="Files, folders, globs.")],
    conf: Annotated[float, typer.Option(min=0, max=1, help="Draw boxes from this score on.")] = 0.3,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, or indices: 0 or 0,1.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; default runs/predict/<n>.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Detect objects in image files: draws boxes, and writes predictions.json."""
    from detcli.engine.detect.load import load_trained
    from detcli.engine.detect.predict import find_images, predict
    from detcli.engine.run import distributed, run_folder
    from detcli.engine.run.log import RunLog

    files = find_images(images)
    ranks = distributed.start(device)
    if ranks.world_size > 1:
        raise UsageError("predict: runs in one process; start it without torchrun")
    trained = load_trained(run, None, (), ranks)
    folder = run_folder.create("predict", out)
    found = predict(trained, files, folder, conf, ranks, RunLog(quiet=quiet))
    if as_json:
        print_json({"out": str(folder), "images": found})
        return
    print_table(
        ("image", "boxes drawn", "picture"),
        [(entry["image"], str(entry["boxes"]), entry["picture"]) for entry in found],
    )
    print(f"results: {folder}")
