"""`detcli profile`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from detcli.cli.options import Device, Json, Overrides, Quiet, RecipeName, Tricks, check_acting
from detcli.cli.output import print_json, print_table, say
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.engine.profile.session import Comparison, Profile

PARTS = ("model", "loader", "step", "post")
MOST_IMAGES = 4096  # in a batch: more is a slip of the finger
SECONDS = 5.0


What = Annotated[str, Option(help="Parts, comma-separated: model, loader, step, post, or all.")]
Batch = Annotated[str | None, Option(help="model: inference batch sizes: 1,2,4; default 1.")]
Size = Annotated[
    str | None, Option(help="model: input height x width: 800x1333; default: as evaluated.")
]
Seconds = Annotated[
    float | None, Option(help=f"Time budget per measurement in seconds; default {SECONDS:g}.")
]
Versus = Annotated[str | None, Option("--vs", help="Second recipe, measured alternately.")]
Weights = Annotated[
    Path | None, Option(help="Checkpoint to load, so that post-processing sees real candidates.")
]
Compile = Annotated[bool, Option("--compile", help="step: also time torch.compile (minutes).")]
Trace = Annotated[Path | None, Option(help="step: write a Chrome trace of 3 steps, .json[.gz].")]


def command(
    recipe: RecipeName,
    overrides: Overrides = None,
    trick: Tricks = None,
    what: What = "all",
    batch: Batch = None,
    size: Size = None,
    seconds: Seconds = None,
    vs: Versus = None,
    weights: Weights = None,
    compile_too: Compile = False,
    trace: Trace = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Profile a recipe: MACs, memory, data loading, training step and post-processing."""
    parts = read_parts(what)
    check_acting("model" in parts, "on model; add it to --what", batch=batch, size=size)
    timed = {"compile": compile_too or None, "trace": trace}
    check_acting("step" in parts, "on step; add it to --what", **timed)
    if vs is not None and (weights is not None or trace is not None):
        raise UsageError("--vs: --weights and --trace are for one recipe; leave them out")
    batches, shape = read_batches(batch or "1"), None if size is None else read_size(size)
    limit = SECONDS if seconds is None else seconds
    if not (math.isfinite(limit) and limit > 0):
        raise UsageError(f"--seconds {limit:g}: expected a number above 0")

    from detcli.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or (), trick or ())
    other = None if vs is None else load_recipe(vs)
    for note in (*loaded.notes, *(other.notes if other is not None else ())):
        say(note, quiet=quiet)

    from detcli.engine.profile import report, session, versus
    from detcli.engine.profile.torch_profiler import check_trace
    from detcli.engine.run import distributed
    from detcli.engine.run.log import RunLog

    if trace is not None:
        check_trace(trace)
    ranks = distributed.start_alone(device, "profile")
    request = session.Request(parts, batches, shape, limit, compile_too, trace, weights)
    log, where = RunLog(quiet=quiet), session.device_name(ranks.device)
    if other is None:
        found = session.profile(loaded.recipe, request, ranks, log)
        if as_json:
            print_json(report.to_json(found, where))
        else:
            print_profile(found, where)
        return
    both = session.compare(loaded.recipe, other.recipe, request, ranks, log)
    if as_json:
        second = report.to_json(both.second, where) | {"ratios": versus.ratios_json(both)}
        print_json(report.to_json(both.first, where) | {"vs": second})
    else:
        print_comparison(both, where)


def read_parts(text: str) -> tuple[str, ...]:
    """The parts of `--what`, in the order in which they are shown. Raises UsageError."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in (*PARTS, "all"):
            raise UsageError(f"--what {word}: unknown; expected {', '.join(PARTS)}, or all")
    if not words:
        raise UsageError(f"--what: expected {', '.join(PARTS)}, or all, got nothing")
    return PARTS if "all" in words else tuple(part for part in PARTS if part in words)


def read_batches(text: str) -> tuple[int, ...]:
    """Comma-separated numbers of images. Raises UsageError."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= MOST_IMAGES for word in words):
        raise UsageError(
            f"--batch {text}: expected whole numbers from 1 to {MOST_IMAGES}, such as 1,2,4"
        )
    return tuple(dict.fromkeys(map(int, words)))


def read_size(text: str) -> tuple[int, int]:
    """(height, width). Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if found is None:
        raise UsageError(f"--size {text}: expected height x width in pixels, such as 800x1333")
    return int(found[1]), int(found[2])


def print_profile(found: Profile, where: str) -> None:
    """Tables of what was measured, what others noted, and the verdict."""
    from detcli.engine.profile import report

    for table in report.tables(found, where):
        print(table.title)  # above, not inside: a table's own title wraps at its width
        print_table(table.columns, table.rows)
        print()
    for line in report.noted_lines(found):
        print(f"noted: {line}")
    print_verdict(found, "")


def print_comparison(both: Comparison, where: str) -> None:
    """Table of two recipes, A and B, and the verdict on each."""
    from detcli.engine.profile.versus import versus_table

    table = versus_table(both)
    print(f"{table.title}; {where}")
    print_table(table.columns, table.rows)
    for name, side in (("A", both.first), ("B", both.second)):
        print_verdict(side, f"{name}: ")


def print_verdict(found: Profile, prefix: str) -> None:
    """One sentence a line."""
    from detcli.engine.profile.verdict import verdict

    for sentence in verdict(found):
        print(f"{prefix}{sentence}")
