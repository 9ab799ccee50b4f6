"""The table of `make bench`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import conftest


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> conftest.Table:
    monkeypatch.setattr(conftest, "FILE", tmp_path / "runs" / "bench.json")
    return conftest.Table()


def test_rows_with_and_without_an_aim(table: conftest.Table) -> None:
    table.add("a", "1 s", "2 s", 2.0, at_least=1.3)
    table.add("b", "1 s", "1 s", 1.0, at_most=0.9)
    table.add("c", "1 s", "300 s", 300.4, ceiling=400)
    assert [line.split() for line in table.lines()] == [
        ["what", "ours", "theirs", "ratio", "aim"],
        ["a", "1", "s", "2", "s", "2.00", ">=", "1.3", "met"],
        ["b", "1", "s", "1", "s", "1.00", "<=", "0.9", "MISSED"],
        ["c", "1", "s", "300", "s", "300"],
    ]


def test_a_row_is_kept_before_it_may_fail(table: conftest.Table) -> None:
    with pytest.raises(AssertionError, match=r"a: ratio 0\.50, floor 1"):
        table.add("a", "2 s", "1 s", 0.5, at_least=1.3, floor=1.0)
    (row,) = json.loads(conftest.FILE.read_text())
    assert (row["what"], row["ratio"], row["met"]) == ("a", 0.5, False)
