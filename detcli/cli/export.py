"""`detcli export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detcli.cli.options import Device, Json, Quiet, Run
from detcli.cli.output import print_json, print_table


def command(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Output file; default exported.pt in the run folder.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export weights for inference, with RepConv and implicit knowledge fused into plain convs."""
    from detcli.engine.detect.export import HEADER, export, table_rows, to_json
    from detcli.engine.detect.load import load_trained
    from detcli.engine.run import distributed
    from detcli.engine.run.log import RunLog

    ranks = distributed.start_alone(device, "export")
    trained = load_trained(run, None, (), ranks)
    path = out if out is not None else trained.folder / "exported.pt"
    done = export(trained, path, ranks, RunLog(quiet=quiet))
    if as_json:
        print_json(to_json(done))
        return
    height, width = done.shape
    print_table(HEADER, table_rows(done), f"images of {height} x {width}, {ranks.device}")
    print(f"{done.path}: {len(done.fused)} parts fused; largest difference {done.difference:.1e}")
