"""A comparison that does not run proves nothing: in this folder a skipped test is a failed one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


def refuse_skip(report: Any) -> Any:
    """The report of a test or of a module, failed where it was skipped."""
    if report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: tests of parity may not be skipped. {why}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    return refuse_skip((yield))
