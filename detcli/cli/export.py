"""`detcli export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detcli.cli.options import Device, Json, Quiet, Run
from detcli.cli.output import print_json, print_table
from detcli.errors import UsageError


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

    ranks = distributed.start(device)
    if ranks.world_size > 1:
        raise UsageError("export: runs in one process; start it without torchrun")
    trained = load_trained(run, None, (), ranks)
    folder = Path(run) if Path(run).is_dir() else trained.path.parent
    path = out if out is not None else folder / "exported.pt"
    done = export(trained, path, ranks, RunLog(quiet=quiet))
    if as_json:
        print_json(to_json(done))
        return
    height, width = done.shape
    print_table(HEADER, table_rows(done), f"images of {height} x {width}, {ranks.device}")
    print(f"{done.path}: {len(done.fused)} parts fused; largest difference {done.difference:.1e}")
