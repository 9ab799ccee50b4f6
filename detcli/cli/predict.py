"""`detcli predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detcli.cli.options import Device, Json, Quiet, Run
from detcli.cli.output import print_json, print_table


def command(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Image files, folders or glob patterns.")],
    conf: Annotated[float, typer.Option(min=0, max=1, help="Score threshold for drawing.")] = 0.3,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default runs/predict/<n>.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a detector on image files: draws the boxes and writes predictions.json."""
    from detcli.engine.detect.load import load_trained
    from detcli.engine.detect.predict import find_images, predict
    from detcli.engine.run import distributed, run_folder
    from detcli.engine.run.log import RunLog

    files = find_images(images)
    ranks = distributed.start_alone(device, "predict")
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
