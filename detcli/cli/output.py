"""What verbs print: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(document: Any) -> None:
    """One JSON document on stdout; a NaN in it is a mistake of ours and raises ValueError."""
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table on stdout; no cell or title calls an emoji by its name, whose list is long."""
    if not sys.stdout.isatty():
        print("\n".join([title] * bool(title) + _aligned([columns, *rows])))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(emoji=False).print(table)


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The table for a file or a pipe, where nothing wraps: the first of the lines is its head."""
    from rich.cells import cell_len, set_cell_size  # without the console, which takes long

    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    padded = [map(set_cell_size, line, widths) for line in lines]
    texts = [f"  {'   '.join(cells)}".rstrip() for cells in padded]
    texts.insert(1, f" {'─' * (sum(widths) + 3 * len(widths) - 1)}")
    return texts


def say(sentence: str, *, quiet: bool = False) -> None:
    """A remark for a person, on stderr."""
    if not quiet:
        print(sentence, file=sys.stderr)
