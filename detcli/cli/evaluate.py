"""`detcli eval`, also known as `detcli val`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detcli.cli.output import Json, Overrides, Quiet, print_json, print_table, say
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.evaluation import CocoMetrics
    from detcli.types import Detections, GroundTruth

TOLERANCE = 1e-9  # between our figures and pycocotools' before --verify fails


def command(
    target: Annotated[
        str | None, typer.Argument(help="A run folder, a checkpoint, or a recipe.")
    ] = None,
    overrides: Overrides = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Measure this file of predictions instead.")
    ] = None,
    gt: Annotated[
        Path | None, typer.Option(help="COCO JSON that --predictions is held to.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights for a recipe.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Also save the boxes before suppression.")
    ] = False,
    classwise: Annotated[bool, typer.Option("--classwise", help="A table of classes.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run pycocotools beside it; exit 1 on a difference.")
    ] = False,
    allow_threshold: Annotated[
        bool,
        typer.Option("--allow-threshold", help="Measure predictions that were cut at a score."),
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, or indices: 0 or 0,1.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for predictions; default RUN/eval_SPLIT.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a run, a checkpoint or a predictions file: COCO's twelve numbers."""
    if (target is None) == (predictions is None):
        raise UsageError("eval: expected either a run (or recipe), or --predictions FILE --gt FILE")
    if predictions is not None:
        truth, detections, result = from_files(predictions, gt, allow_threshold)
    else:
        assert target is not None
        if gt is not None:
            raise UsageError("eval: --gt goes with --predictions; a run is measured on its data")
        found = from_run(target, checkpoint, overrides or [], split, device, out, candidates, quiet)
        if found is None:
            return
        truth, detections, result = found
    difference = None
    if verify:
        from detcli.evaluation import verify_with_pycocotools

        difference = verify_with_pycocotools(truth, detections)["largest_difference"]
    report(result, as_json=as_json, classwise=classwise, difference=difference, quiet=quiet)
    if difference is not None and difference > TOLERANCE:
        raise typer.Exit(1)


def from_files(
    predictions: Path, gt: Path | None, allow_threshold: bool
) -> tuple[GroundTruth, Detections, CocoMetrics]:
    """Measure a predictions file, without torch."""
    from detcli.data.coco import read_coco
    from detcli.evaluation import (
        check_not_thresholded,
        evaluate_coco,
        read_meta,
        read_predictions,
    )

    meta = read_meta(predictions)
    path = str(gt) if gt is not None else (meta.ground_truth if meta is not None else None)
    if path is None:
        raise UsageError(
            f"--predictions {predictions}: name the annotations with --gt FILE (COCO JSON); "
            "no .meta.json beside the predictions names them"
        )
    if not allow_threshold:
        check_not_thresholded(meta)
    truth = read_coco("", {"annotations": path}).ground_truth()
    detections = read_predictions(predictions, truth)
    return truth, detections, evaluate_coco(truth, detections)


def from_run(
    target: str,
    weights: Path | None,
    overrides: list[str],
    split: str | None,
    device: str | None,
    out: Path | None,
    candidates: bool,
    quiet: bool,
) -> tuple[GroundTruth, Detections, CocoMetrics] | None:
    """Run a detector over its data and measure it; None on ranks other than 0."""
    from detcli.engine import distributed
    from detcli.engine.log import RunLog
    from detcli.engine.measure import load_trained, measure, write_evaluation

    ranks = distributed.start(device)
    try:
        trained = load_trained(target, weights, overrides, ranks)
        chosen = split or trained.recipe.eval.split
        if chosen not in ("train", "val", "test"):
            raise UsageError(f"--split {chosen}: expected train, val or test")
        log = RunLog(quiet=quiet, enabled=ranks.is_main)
        records, result = measure(trained, chosen, ranks, log)
    finally:
        distributed.stop()
    if result is None:
        return None
    place = Path(target) if Path(target).is_dir() else trained.path.parent
    folder = out if out is not None else place / f"eval_{chosen}"
    for path in write_evaluation(folder, trained.recipe, records, result, candidates=candidates):
        say(f"wrote {path}", quiet=quiet)
    return records.ground_truth(), result.detections, result.metrics


def report(
    result: CocoMetrics,
    *,
    as_json: bool,
    classwise: bool,
    difference: float | None,
    quiet: bool,
) -> None:
    """Tables, or the JSON document with fixed keys."""
    from detcli.evaluation import report as rows

    if as_json:
        document: dict[str, Any] = rows.to_json(result)
        if difference is not None:
            document["largest_difference"] = difference
        print_json(document)
    else:
        print_table(rows.SUMMARY_HEADER, rows.summary_rows(result))
        if classwise:
            print_table(rows.CLASS_HEADER, rows.class_rows(result))
    for note in result.notes:
        say(note, quiet=quiet)
    if difference is not None:
        say(f"pycocotools beside it: largest difference {difference:.1e}", quiet=quiet)
