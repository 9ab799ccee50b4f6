"""What an installed copy brings along."""

import subprocess
import sys
import zipfile

from tests.paths import ROOT


def test_the_wheel_holds_code_and_recipes(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
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
