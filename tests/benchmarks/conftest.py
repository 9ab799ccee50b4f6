"""The table that `make bench` ends with; the same rows go to runs/bench.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from tests.paths import ROOT

HEADER = ("what", "ours", "theirs", "ratio", "aim", "")
FILE = ROOT / "runs" / "bench.json"


@dataclass(frozen=True)
class Row:
    """One comparison. at_least, at_most: what the ratio should be; None: only reported."""

    what: str
    ours: str
    theirs: str
    ratio: float
    at_least: float | None
    at_most: float | None

    @property
    def met(self) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        low, high = self.at_least or 0.0, self.at_most or float("inf")
        return low <= self.ratio <= high

    @property
    def aim(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    def cells(self) -> tuple[str, ...]:
        met = {True: "met", False: "MISSED", None: ""}[self.met]
        shown = f"{self.ratio:.2f}" if self.ratio < 100 else f"{self.ratio:.0f}"
        return self.what, self.ours, self.theirs, shown, self.aim, met


class Table:
    """Rows in the order in which they were measured."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(
        self,
        what: str,
        ours: str,
        theirs: str,
        ratio: float,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        floor: float | None = None,
        ceiling: float | None = None,
    ) -> None:
        """Note a comparison, on disk at once; fail only where the ratio is far from its aim: below
        `floor` or above `ceiling`."""
        self.rows.append(Row(what, ours, theirs, ratio, at_least, at_most))
        FILE.parent.mkdir(exist_ok=True)
        content = [asdict(row) | {"met": row.met} for row in self.rows]
        FILE.write_text(json.dumps(content, indent=1))
        print(f"\n{'  '.join(self.rows[-1].cells())}", flush=True)
        assert floor is None or ratio >= floor, f"{what}: ratio {ratio:.2f}, floor {floor}"
        assert ceiling is None or ratio <= ceiling, f"{what}: ratio {ratio:.2f}, ceiling {ceiling}"

    def lines(self) -> list[str]:
        """The table as text."""
        cells = [HEADER, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]


TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()


@pytest.fixture
def table(pytestconfig: pytest.Config) -> Table:
    """Where a benchmark notes its rows."""
    return pytestconfig.stash[TABLE]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Both sides of a comparison in one thread: the machine's other cores may be busy."""
    import torch  # not above: one of the benchmarks counts the memory of what it imports

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    table = config.stash[TABLE]
    if not table.rows:
        return
    terminalreporter.section("ours beside theirs")
    for line in table.lines():
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"also in {FILE}")
