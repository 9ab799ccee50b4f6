"""`detcli tta`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from detcli.cli.options import (
    Bootstrap,
    Checkpoint,
    Device,
    Json,
    Overrides,
    Quiet,
    RunOrRecipe,
    Seed,
    Split,
)
from detcli.cli.output import print_json, print_table, say
from detcli.errors import UsageError

Scales = Annotated[str, Option(help="Scales relative to the evaluation size: 0.8,1.0,1.2.")]
Flip = Annotated[bool, Option("--flip", help="Also flip every view horizontally.")]
Slices = Annotated[int | None, Option(help="Also detect in square tiles of this size in pixels.")]
Overlap = Annotated[float, Option(help="Overlap of neighbouring tiles, relative to their size.")]
Merge = Annotated[str, Option(help="Merging method, with options if any: 'soft sigma=0.1'.")]
SaveViews = Annotated[bool, Option("--save-views", help="Also save the candidates of each view.")]
FilesOut = Annotated[Path | None, Option("--out", help="Output folder; default RUN/tta_SPLIT.")]


def command(
    run: RunOrRecipe,
    overrides: Overrides = None,
    scales: Scales = "1.0",
    flip: Flip = False,
    slices: Slices = None,
    overlap: Overlap = 0.2,
    merge: Merge = "wbf",
    checkpoint: Checkpoint = None,
    split: Split = None,
    save_views: SaveViews = False,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    device: Device = None,
    out: FilesOut = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Test-time augmentation: AP with and without it, the gain's interval, and the cost."""
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
    folder = out if out is not None else trained.folder / f"tta_{chosen}"
    for path in tta.write_files(folder, trained.recipe, found, save_views=save_views):
        say(f"wrote {path}", quiet=quiet)
    if as_json:
        print_json(tta.to_json(found))
    else:
        print_table(tta.HEADER, tta.table_rows(found))
        print_table(tta.GAIN_HEADER, tta.gain_rows(found))
