"""What a run says: the console, log.txt, and metrics.jsonl with one line per log step."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
PLAIN_SECONDS = 30.0  # between lines of progress where there is no terminal


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

    def track(
        self, items: Iterable[Item], what: str, total: int, done: int = 0, unit: str = "batches"
    ) -> Iterator[Item]:
        """Yield the items and show how far they are."""
        with self.bar(what, total, done, unit) as advance:
            for item in items:
                yield item
                advance(1)

    @contextmanager
    def bar(
        self, what: str, total: int, done: int = 0, unit: str = "batches"
    ) -> Iterator[Callable[[int], None]]:
        """A function to call with the number of finished units: on a terminal it moves a bar with
        a rate and the remaining time, elsewhere it says the same in a line every half minute."""
        if self.console.quiet:
            yield lambda count: None
        elif not sys.stderr.isatty():
            yield self._plain_bar(what, total, done, unit)
        else:
            yield from self._rich_bar(what, total, done, unit)

    def _plain_bar(self, what: str, total: int, done: int, unit: str) -> Callable[[int], None]:
        """Progress for a file or a CI system: now and then a line of text."""
        started = said = time.perf_counter()
        count = 0

        def advance(more: int) -> None:
            nonlocal count, said
            count += more
            now = time.perf_counter()
            if now - said < PLAIN_SECONDS:
                return
            said, seconds = now, now - started
            rate, left = rate_in_words(count, seconds, unit), total - done - count
            line = f"{what} {done + count}/{total}, {rate}, {left * seconds / count:.0f} s left"
            self.console.print(line, markup=False, soft_wrap=True)

        return advance

    def _rich_bar(
        self, what: str, total: int, done: int, unit: str
    ) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total, completed=done, rate="")
            started, count = time.perf_counter(), 0

            def advance(more: int) -> None:
                nonlocal count
                count += more
                rate = rate_in_words(count, time.perf_counter() - started, unit)
                progress.update(task, advance=more, rate=rate)

            yield advance


def rate_in_words(count: int, seconds: float, unit: str) -> str:
    """Units per second, or where that is less than one, how long each takes."""
    if count >= seconds:
        return f"{count / max(seconds, 1e-9):.1f} {unit}/s"
    return f"{seconds / max(count, 1):.1f} s each"
