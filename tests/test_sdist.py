"""What the source archive brings along: a copy of it alone proves what a clone proves."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.paths import FIXTURES, ROOT

pytestmark = pytest.mark.slow


def test_it_holds_every_fixture(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.iterdir())) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    files = [path for path in FIXTURES.rglob("*") if path.suffix not in ("", ".pyc")]
    assert len(files) > 50
    assert {path.relative_to(ROOT).as_posix() for path in files} <= inside
