"""`detcli compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from detcli.cli.options import AllowThreshold, Bootstrap, Classwise, Json, Quiet, Seed
from detcli.cli.output import print_json, print_table, say
from detcli.errors import UsageError

A = Annotated[str, Argument(metavar="A", help="Run folder or predictions file (baseline).")]
B = Annotated[str, Argument(metavar="B", help="Run folder or predictions file to compare with A.")]
GroundTruth = Annotated[
    Path | None, Option("--gt", help="Ground truth (COCO JSON); default: that of the predictions.")
]
FailIfWorse = Annotated[
    float | None, Option(min=0, help="Exit 1 if B is worse than A by more AP points than this.")
]
AtScore = Annotated[
    list[str] | None,
    Option(
        metavar="S|best",
        help="Operating point: false positives per image, recall and precision at score threshold "
        "S; best: where F1 of A is highest. Repeatable.",
    ),
]
AtRecall = Annotated[
    list[float] | None,
    Option(
        min=0,
        max=1,
        help="Operating point at this recall, with each side's own score threshold. Repeatable.",
    ),
]
PlotsOut = Annotated[Path | None, Option("--out", help="Folder for plots of the differences.")]


def command(
    a: A,
    b: B,
    gt: GroundTruth = None,
    fail_if_worse: FailIfWorse = None,
    at_score: AtScore = None,
    at_recall: AtRecall = None,
    classwise: Classwise = False,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    allow_threshold: AllowThreshold = False,
    out: PlotsOut = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two runs on the same images: AP difference with paired bootstrap intervals."""
    from detcli.engine.compare import compare as comparing
    from detcli.engine.run.log import RunLog
    from detcli.recipe.reading import shown

    scores = [_score(text) for text in at_score or ()]
    sides = comparing.find_side(a), comparing.find_side(b)
    compared = comparing.compare(
        *sides,
        gt,
        RunLog(quiet=quiet),
        at_scores=scores,
        at_recalls=at_recall or (),
        allow_threshold=allow_threshold,
        resamples=bootstrap,
        seed=seed,
    )
    if as_json:
        print_json(comparing.to_json(compared))
    else:
        rows = [*comparing.metric_rows(compared), *comparing.point_rows(compared)]
        print_table(comparing.METRIC_HEADER, rows)
        if classwise:
            print_table(("class", *comparing.METRIC_HEADER[1:]), comparing.class_rows(compared))
        if compared.recipe_diff:
            settings = [(key, shown(old), shown(new)) for key, old, new in compared.recipe_diff]
            print_table(("setting", "a", "b"), settings)
    if compared.recipe_diff == []:
        say("the two recipes have the same settings", quiet=quiet)
    say(f"a: {a}", quiet=quiet)
    say(f"b: {b}", quiet=quiet)
    say(comparing.verdict(compared), quiet=quiet)
    if caution := comparing.caution(compared):
        say(caution, quiet=quiet)
    for path in comparing.write_plots(out, compared) if out is not None else ():
        say(f"wrote {path}", quiet=quiet)
    points = compared.ap_points
    if fail_if_worse is not None and points is not None and points < -fail_if_worse:
        say(f"B is worse by {-points:.2f} AP points, more than {fail_if_worse:g}: exit 1")
        raise typer.Exit(1)


def _score(text: str) -> float | None:
    """A score, or None for `best`."""
    if text == "best":
        return None
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise UsageError(f"--at-score {text}: expected best, or a number from 0 to 1")
    return score
