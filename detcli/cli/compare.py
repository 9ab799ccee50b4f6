"""`detcli compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detcli.cli.output import Json, Quiet, print_json, print_table, say
from detcli.errors import UsageError


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="A run folder or a predictions file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one held against it.")],
    gt: Annotated[
        Path | None, typer.Option(help="COCO JSON; default: what the predictions name.")
    ] = None,
    fail_if_worse: Annotated[
        float | None,
        typer.Option(min=0, help="Exit 1 if B is worse than A by more AP points than this."),
    ] = None,
    at_score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="S|best",
            help="Also false positives per image, recall and precision from score S on; best: "
            "where A's F1 is largest. Repeatable.",
        ),
    ] = None,
    at_recall: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            max=1,
            help="The same from the scores where each side finds this share of the objects. "
            "Repeatable.",
        ),
    ] = None,
    classwise: Annotated[bool, typer.Option("--classwise", help="A table of classes.")] = False,
    bootstrap: Annotated[int, typer.Option(min=1, help="Resamples for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    allow_threshold: Annotated[
        bool, typer.Option("--allow-threshold", help="Predictions that were cut at a score.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for plots of the differences.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Is B better than A, by how much, and is the difference real?"""
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
        say("the recipes do not differ in any setting", quiet=quiet)
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
