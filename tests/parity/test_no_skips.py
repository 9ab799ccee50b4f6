"""What the folder's conftest makes of a skip, and that none of the numbers are missing."""

from __future__ import annotations

import pytest

from tests.parity.conftest import refuse_skip
from tests.paths import PARITY


def report(outcome: str) -> pytest.TestReport:
    where = ("test_x.py", 1, "Skipped: fixtures absent") if outcome == "skipped" else None
    return pytest.TestReport("test_x.py::test", ("", 0, ""), {}, outcome, where, "setup")  # type: ignore[arg-type]


def test_a_skip_is_a_failure() -> None:
    refused = refuse_skip(report("skipped"))
    assert refused.failed
    assert "fixtures absent" in refused.longreprtext


@pytest.mark.parametrize("outcome", ["passed", "failed"])
def test_other_outcomes_stay(outcome: str) -> None:
    assert refuse_skip(report(outcome)).outcome == outcome


def test_an_expected_failure_is_no_skip() -> None:
    expected = report("skipped")
    expected.wasxfail = "known"
    assert refuse_skip(expected).skipped


def test_every_reference_has_its_numbers_and_its_names() -> None:
    names = {path.name.partition(".")[0] for path in PARITY.iterdir()}
    assert len(names) == 13
    for name in names:
        assert {f"{name}.npz", f"{name}.keys.txt", f"{name}.json"} <= {
            path.name for path in PARITY.iterdir()
        }
