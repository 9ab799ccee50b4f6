"""`detcli tta`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detcli.cli.output import Json, Overrides, Quiet, print_json, print_table, say
from detcli.errors import UsageError


def command(
    run: Annotated[str, typer.Argument(help="A run folder, a checkpoint, or a recipe.")],
    overrides: Overrides = None,
    scales: Annotated[
        str, typer.Option(help="Factors of the evaluation size: 0.8,1.0,1.2.")
    ] = "1.0",
    flip: Annotated[bool, typer.Option("--flip", help="Also every view mirrored.")] = False,
    slices: Annotated[
        int | None, typer.Option(help="Also square slices of this side in pixels.")
    ] = None,
    overlap: Annotated[
        float, typer.Option(help="Share of the side that neighbouring slices have in common.")
    ] = 0.2,
    merge: Annotated[
        str, typer.Option(help="Method, with options if any: 'soft sigma=0.1'.")
    ] = "wbf",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights for a recipe.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    save_views: Annotated[
        bool, typer.Option("--save-views", help="Write the candidates of each view.")
    ] = False,
    bootstrap: Annotated[int, typer.Option(min=1, help="Resamples for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, or indices: 0 or 0,1.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for predictions; default RUN/tta_SPLIT.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Test-time augmentation: AP with and without, the gain with its interval, and the cost."""
    from detcli.cli.nms_compare import numbers
    from detcli.engine.detect import tta
    from detcli.engine.detect.load import load_trained
    from detcli.engine.detect.views import choose_views
    from detcli.engine.run import distributed
    from detcli.engine.run.log import RunLog
    from detcli.engine.run.methods import parse_method

    views = choose_views(numbers("--scales", scales), flip, slices, overlap)
    method = parse_method(merge)
    ranks = distributed.start(device)
    try:
        trained = load_trained(run, checkpoint, overrides or [], ranks)
        chosen = split or trained.recipe.eval.split
        if chosen not in ("train", "val", "test"):
            raise UsageError(f"--split {chosen}: expected train, val or test")
        log = RunLog(quiet=quiet, enabled=ranks.is_main)
        found = tta.augment_at_test_time(
            trained, chosen, views, method, ranks, log, resamples=bootstrap, seed=seed
        )
    finally:
        distributed.stop()
    if found is None:
        return
    place = Path(run) if Path(run).is_dir() else trained.path.parent
    folder = out if out is not None else place / f"tta_{chosen}"
    for path in tta.write_files(folder, trained.recipe, found, save_views=save_views):
        say(f"wrote {path}", quiet=quiet)
    if as_json:
        print_json(tta.to_json(found))
    else:
        print_table(tta.HEADER, tta.table_rows(found))
        print_table(tta.GAIN_HEADER, tta.gain_rows(found))
