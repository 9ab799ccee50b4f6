"""What a run says: the console, log.txt, and metrics.jsonl with one line per log step."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")


class RunLog:
    """Writes to standard error and, given a folder, to its log.txt and metrics.jsonl.

    Ranks other than 0 pass `enabled=False` and stay silent.
    """

    def __init__(
        self, folder: Path | None = None, *, quiet: bool = False, enabled: bool = True
    ) -> None:
        self.folder = folder if enabled else None
        self.console = Console(stderr=True, quiet=quiet or not enabled, highlight=False)

    def say(self, text: str) -> None:
        """One line for the reader, on the console and in log.txt."""
        self.console.print(text, markup=False, soft_wrap=True)
        if self.folder is not None:
            stamp = time.strftime("%H:%M:%S")
            with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
                file.write(f"{stamp} {text}\n")

    def record(self, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        if self.folder is not None:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, allow_nan=False) + "\n")

    def size(self) -> int:
        """Bytes of metrics.jsonl so far; a checkpoint remembers them."""
        path = self.folder / "metrics.jsonl" if self.folder is not None else None
        return path.stat().st_size if path is not None and path.exists() else 0

    def cut(self, size: int) -> None:
        """Forget the lines written after the checkpoint that is being resumed."""
        if self.folder is not None and (self.folder / "metrics.jsonl").exists():
            os.truncate(self.folder / "metrics.jsonl", size)

    def track(self, items: Iterable[Item], what: str, total: int, done: int = 0) -> Iterator[Item]:
        """Yield the items; on a terminal show a bar with a rate and the remaining time."""
        if not sys.stderr.isatty() or self.console.quiet:
            yield from items
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=total, completed=done, rate="")
            started = time.perf_counter()
            for count, item in enumerate(items, 1):
                yield item
                rate = count / (time.perf_counter() - started)
                bar.update(task, advance=1, rate=f"{rate:.1f} batches/s")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
