"""`detcli eval`, also known as `detcli val`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from typer import Argument, Option

from detcli.cli.options import (
    AllowThreshold,
    Checkpoint,
    Classwise,
    Device,
    Json,
    Overrides,
    Quiet,
    Split,
)
from detcli.cli.output import print_json, print_table, say
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.data.records import Records
    from detcli.evaluation import CocoMetrics
    from detcli.types import Detections, GroundTruth

TOLERANCE = 1e-9  # of the difference from pycocotools above which --verify fails


class Measured(NamedTuple):
    """What was evaluated, COCO's numbers of it, the folder that belongs to it, and the images,
    which only a run has."""

    truth: GroundTruth
    detections: Detections
    result: CocoMetrics
    folder: Path
    records: Records | None = None


Target = Annotated[str | None, Argument(metavar="[RUN]", help="Run folder, checkpoint, or recipe.")]
PredictionsFile = Annotated[
    Path | None, Option("--predictions", help="Evaluate this predictions file.")
]
GroundTruthFile = Annotated[
    Path | None, Option("--gt", help="Ground truth (COCO JSON) for --predictions.")
]
Candidates = Annotated[bool, Option("--candidates", help="Also save candidates before NMS.")]
Metric = Annotated[
    Literal["coco", "voc", "voc07"],
    Option(help="coco; voc: all-point interpolation; voc07: 11-point."),
]
Iou = Annotated[float, Option(help="IoU threshold of the VOC metrics.")]
PlusOne = Annotated[
    bool, Option("--plus-one", help="VOC: inclusive pixel coordinates (width = x2 - x1 + 1).")
]
Analyse = Annotated[bool, Option("--analyse", help="Error types, confusion, calibration.")]
Conf = Annotated[float, Option(min=0, max=1, help="Score threshold of the confusion matrix.")]
Plots = Annotated[bool, Option("--plots", help="Save the --analyse results as plots.")]
Worst = Annotated[int | None, Option(min=1, max=20, help="Draw the N worst errors of each type.")]
Verify = Annotated[
    bool, Option("--verify", help="Cross-check with pycocotools; exit 1 on a difference.")
]
FilesOut = Annotated[Path | None, Option("--out", help="Output folder; default RUN/eval_SPLIT.")]


def command(
    target: Target = None,
    overrides: Overrides = None,
    predictions: PredictionsFile = None,
    gt: GroundTruthFile = None,
    checkpoint: Checkpoint = None,
    split: Split = None,
    candidates: Candidates = False,
    metric: Metric = "coco",
    iou: Iou = 0.5,
    plus_one: PlusOne = False,
    classwise: Classwise = False,
    analyse: Analyse = False,
    conf: Conf = 0.25,
    plots: Plots = False,
    worst: Worst = None,
    verify: Verify = False,
    allow_threshold: AllowThreshold = False,
    device: Device = None,
    out: FilesOut = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run, a checkpoint or a predictions file."""
    if (target is None) == (predictions is None):
        raise UsageError("eval: expected either a run (or recipe), or --predictions FILE --gt FILE")
    if predictions is not None:
        found = from_files(predictions, gt, allow_threshold, out, quiet)
    else:
        assert target is not None
        if gt is not None:
            raise UsageError(
                "eval: --gt needs --predictions; a run has the ground truth of its data"
            )
        run = from_run(target, checkpoint, overrides or [], split, device, out, candidates, quiet)
        if run is None:
            return
        found = run
    document: dict[str, Any] = {}
    if metric == "coco":
        document |= report_coco(found.result, as_json=as_json, classwise=classwise)
    else:
        document |= report_voc(found, metric, iou, plus_one=plus_one, as_json=as_json)
    for note in found.result.notes:
        say(note, quiet=quiet)
    if analyse or plots:
        document |= report_analysis(
            found, conf, tables=analyse, plots=plots, as_json=as_json, quiet=quiet
        )
    draw_worst(found, worst, quiet=quiet)
    difference = check_with_pycocotools(found, quiet=quiet) if verify else None
    if difference is not None:
        document["largest_difference"] = difference
    if as_json:
        print_json(document)
    if difference is not None and difference > TOLERANCE:
        raise typer.Exit(1)


def from_files(
    predictions: Path, gt: Path | None, allow_threshold: bool, out: Path | None, quiet: bool
) -> Measured:
    """Measure a predictions file, without torch."""
    from detcli.evaluation import evaluate_coco
    from detcli.predictions.with_truth import doubt_about_scores, load_prediction_files

    files = load_prediction_files(
        [predictions], gt, allow_threshold=allow_threshold, need_truth=True
    )
    if doubt := doubt_about_scores(files):
        say(doubt, quiet=quiet)
    truth, detections = files.ground_truth, files.tables[0]
    folder = out if out is not None else predictions.with_name(f"{predictions.stem}_eval")
    return Measured(truth, detections, evaluate_coco(truth, detections), folder)


def from_run(
    target: str,
    weights: Path | None,
    overrides: list[str],
    split: str | None,
    device: str | None,
    out: Path | None,
    candidates: bool,
    quiet: bool,
) -> Measured | None:
    """Run a detector over its data and measure it; None on ranks other than 0."""
    from detcli.engine.detect.load import load_trained, measure, write_evaluation
    from detcli.engine.run import distributed
    from detcli.engine.run.log import RunLog

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
    folder = out if out is not None else trained.folder / f"eval_{chosen}"
    for path in write_evaluation(folder, trained.recipe, records, result, candidates=candidates):
        say(f"wrote {path}", quiet=quiet)
    truth = records.ground_truth()
    return Measured(truth, result.detections, result.metrics, folder, records)


def report_coco(result: CocoMetrics, *, as_json: bool, classwise: bool) -> dict[str, Any]:
    """Print the twelve numbers, and the classes if asked; or the keys of the JSON document."""
    from detcli.evaluation import report as rows

    if not as_json:
        print_table(rows.SUMMARY_HEADER, rows.summary_rows(result))
        if classwise:
            print_table(rows.CLASS_HEADER, rows.class_rows(result))
    return rows.to_json(result)


def report_voc(
    found: Measured, metric: str, iou: float, *, plus_one: bool, as_json: bool
) -> dict[str, Any]:
    """Print AP by class and their mean; or the keys of the JSON document."""
    from detcli.evaluation import evaluate_voc
    from detcli.evaluation import report as rows

    result = evaluate_voc(
        found.truth,
        found.detections,
        iou_threshold=iou,
        eleven_point=metric == "voc07",
        inclusive_corners=plus_one,
    )
    if not as_json:
        rule = "11 points" if result.eleven_point else "all points"
        title = f"Pascal VOC AP, {rule}, IoU {result.iou_threshold:g}"
        print_table(rows.VOC_HEADER, rows.voc_rows(result), title)
    return rows.voc_to_json(result)


def report_analysis(
    found: Measured, conf: float, *, tables: bool, plots: bool, as_json: bool, quiet: bool
) -> dict[str, Any]:
    """Print the error analysis, plot it, or both; returns the keys of the JSON document."""
    from detcli.engine.compare import analysis

    analysed = analysis.analyse(found.truth, found.detections, conf)
    if tables and not as_json:
        for title, header, rows in analysis.tables(analysed):
            print_table(header, rows, title)
    for path in analysis.write_plots(found.folder, analysed) if plots else ():
        say(f"wrote {path}", quiet=quiet)
    return {"analysis": analysis.to_json(analysed)} if tables else {}


def draw_worst(found: Measured, count: int | None, *, quiet: bool) -> None:
    """Draw the `count` worst errors of each kind; None: nothing."""
    if count is None:
        return
    if found.records is None:
        raise UsageError(
            "eval: --worst needs the images of a run; --predictions has none; name a run"
        )
    from detcli.engine.pictures.worst import write_worst

    path = found.folder / "worst.png"
    drawn = write_worst(path, found.records, found.truth, found.detections, count)
    say(f"wrote {path}" if drawn else "no wrong detection: nothing to draw", quiet=quiet)


def check_with_pycocotools(found: Measured, *, quiet: bool) -> float | None:
    """The largest difference between pycocotools' twelve numbers and ours."""
    from detcli.evaluation import verify_with_pycocotools

    difference = verify_with_pycocotools(found.truth, found.detections)["largest_difference"]
    say(f"cross-check with pycocotools: largest difference {difference:.1e}", quiet=quiet)
    return difference
