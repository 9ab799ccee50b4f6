"""`detcli nms-compare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from detcli.cli.options import AllowThreshold, Json, Quiet
from detcli.cli.output import print_json, print_table, say
from detcli.errors import UsageError

MAX_PER_IMAGE = 100  # as many as COCO counts

if TYPE_CHECKING:
    from detcli.engine.run.methods import MethodSpec
    from detcli.predictions.with_truth import PredictionFiles


Predictions = Annotated[list[Path], Argument(help="Predictions files; several: an ensemble.")]
Methods = Annotated[str, Option(help="Methods, comma-separated; default: all that are possible.")]
Method = Annotated[
    list[str] | None,
    Option(help="One method with options: 'soft sigma=0.1 metric=diou'; repeatable."),
]
GroundTruth = Annotated[
    Path | None, Option("--gt", help="Ground truth (COCO JSON); default: that of the .meta.json.")
]
Weights = Annotated[str | None, Option(help="Model weights of an ensemble, comma-separated: 2,1.")]
Baseline = Annotated[str, Option(help="Method that the others are compared with.")]
Iou = Annotated[float | None, Option(help="IoU threshold of every method; default: its own.")]
MaxDet = Annotated[
    int | None, Option(min=1, help="Max. detections per image; default: the run's, or 100.")
]
ClassAgnostic = Annotated[bool, Option("--class-agnostic", help="Class-agnostic NMS.")]
Sweep = Annotated[
    bool, Option("--sweep", help="Tune thresholds on half the images, report AP on the others.")
]
Bootstrap = Annotated[int, Option(min=0, help="Bootstrap resamples; 0: no confidence intervals.")]
Seed = Annotated[int, Option(min=0, help="Random seed of the bootstrap and of the --sweep split.")]
FilesOut = Annotated[Path | None, Option("--out", help="Folder for predictions, CSV and plots.")]


def command(
    predictions: Predictions,
    methods: Methods = "",
    method: Method = None,
    gt: GroundTruth = None,
    weights: Weights = None,
    baseline: Baseline = "nms",
    iou: Iou = None,
    max_det: MaxDet = None,
    class_agnostic: ClassAgnostic = False,
    sweep: Sweep = False,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    allow_threshold: AllowThreshold = False,
    out: FilesOut = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare NMS variants and box fusion on your own predictions."""
    from detcli.engine.compare import report as method_report
    from detcli.engine.compare.nms_compare import compare_methods
    from detcli.engine.run.log import RunLog
    from detcli.engine.run.methods import parse_methods
    from detcli.predictions.with_truth import load_prediction_files

    asked = parse_methods(methods, method or [])
    files = load_prediction_files(
        predictions, gt, allow_threshold=allow_threshold, need_truth=sweep
    )
    specs, position = with_references(asked or possible_methods(files), baseline)
    known = {} if sweep else files.postprocess  # a sweep is to find better ones
    specs = [
        with_usual_options(spec, known, iou).among(
            num_models=len(predictions),
            weights=None if weights is None else model_weights(weights, len(predictions)),
            max_per_image=max_det or files.postprocess.get("max_per_image", MAX_PER_IMAGE),
            class_agnostic=class_agnostic or files.postprocess.get("class_agnostic", False),
        )
        for spec in specs
    ]
    log = RunLog(quiet=quiet)
    comparison = compare_methods(
        files, specs, position, log, choose_thresholds=sweep, resamples=bootstrap, seed=seed
    )
    if iou is not None:
        comparison = replace(comparison, notes=(*unreached(specs), *comparison.notes))
    if as_json:
        print_json(method_report.to_json(comparison))
    else:
        print_table(method_report.header(comparison), method_report.table_rows(comparison))
    for note in comparison.notes:
        say(note, quiet=quiet)
    if files.annotations is None:
        say("no ground truth: name it with --gt FILE (COCO JSON) to see AP", quiet=quiet)
    for path in method_report.write_report(out, comparison, files) if out is not None else ():
        say(f"wrote {path}", quiet=quiet)


def possible_methods(files: PredictionFiles) -> list[MethodSpec]:
    """Every method whose columns the files have."""
    from detcli.engine.run import methods

    present = set.intersection(*(set(table.extra) for table in files.tables))
    return [methods.MethodSpec(name) for name in methods.possible_methods(present)]


def with_references(specs: list[MethodSpec], baseline: str) -> tuple[list[MethodSpec], int]:
    """The methods, in front of them the baseline and nms, whose time is the unit, unless they are
    there already; and the baseline's position."""
    from detcli.engine.run.methods import parse_method

    reference = parse_method(baseline)
    for needed in (parse_method("nms"), reference):
        if _position(specs, needed) is None:
            specs = [needed, *specs]
    position = _position(specs, reference)
    assert position is not None
    return specs, position


def with_usual_options(spec: MethodSpec, known: Mapping[str, Any], iou: float | None) -> MethodSpec:
    """What was typed, then --iou, then the run's own settings, if they are for this method."""
    from detcli.engine.run.methods import own_options

    if iou is not None:
        spec = spec.with_defaults(iou_threshold=iou)
    own = own_options(known) if known.get("method") == spec.name else {}
    return spec.with_defaults(**own)


def unreached(specs: list[MethodSpec]) -> list[str]:
    """A note on the methods in which --iou does nothing."""
    names = [spec.label for spec in specs if "iou_threshold" not in spec.params]
    if not names:
        return []
    return [f"--iou has no effect on {', '.join(names)}: no IoU threshold there"]


def _position(specs: list[MethodSpec], wanted: MethodSpec) -> int | None:
    """Where exactly this method stands; without options, the first of its name will do."""
    exact = [index for index, spec in enumerate(specs) if spec == wanted]
    named = [index for index, spec in enumerate(specs) if spec.name == wanted.name]
    return next(iter(exact if wanted.options else exact + named), None)


def model_weights(text: str, num_models: int) -> list[float]:
    """One weight per predictions file. Raises UsageError."""
    found = numbers("--weights", text)
    if len(found) != num_models:
        raise UsageError(
            f"--weights: expected {num_models}, one per predictions file, got {len(found)}"
        )
    return found


def numbers(option: str, text: str) -> list[float]:
    """Comma-separated numbers. Raises UsageError."""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"{option}: expected numbers such as 2,1, got {text!r}") from None
