"""What an installed copy and the source archive bring along: code, recipes, types, the version."""

import subprocess
import sys
import tarfile
import zipfile

import pytest

from detcli import __version__
from tests.paths import FIXTURES, ROOT

pytestmark = pytest.mark.slow


def build(kind, folder):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.iterdir())


def test_the_source_archive_holds_every_fixture(tmp_path):
    with tarfile.open(build("sdist", tmp_path)) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    files = [path for path in FIXTURES.rglob("*") if path.suffix not in ("", ".pyc")]
    assert len(files) > 50
    assert {path.relative_to(ROOT).as_posix() for path in files} <= inside


def test_the_wheel_holds_code_and_recipes(tmp_path):
    wheel = build("wheel", tmp_path)
    assert wheel.name.startswith(f"detcli-{__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    assert (tmp_path / "installed" / "detcli" / "py.typed").is_file()
    shipped = tmp_path / "installed" / "detcli" / "_recipes"
    names = {path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {path.relative_to(shipped) for path in shipped.rglob("*.yaml")} == names
    done = subprocess.run(
        [sys.executable, "-m", "detcli", "recipes", "list", "--quiet"],
        cwd=tmp_path / "installed",
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == {path.stem for path in names if path.parent.name == ""}
