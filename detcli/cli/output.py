"""What verbs print: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only errors and the result.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Override values.")
]
Tricks = Annotated[
    list[str] | None,
    typer.Option("--trick", help="A name of `recipes tricks`, or a file; repeatable."),
]

# Wide enough for every table when the output is a file or a pipe, where nothing wraps.
PIPE_WIDTH = 240


def print_json(document: Any) -> None:
    """One JSON document on stdout; a NaN in it is a mistake of ours and raises ValueError."""
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table on stdout; no cell or title calls an emoji by its name, whose list is long."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if sys.stdout.isatty():
        Console(emoji=False).print(table)
        return
    console = Console(width=PIPE_WIDTH, emoji=False)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n"))


def say(sentence: str, *, quiet: bool = False) -> None:
    """A remark for a person, on stderr."""
    if not quiet:
        print(sentence, file=sys.stderr)
