"""Imports point one way, and the light commands never load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.predicted import write_candidates, write_data_set
from tests.paths import ROOT

PACKAGE = ROOT / "detcli"
PARTS = ("data", "models", "postprocess", "evaluation")
# What each part may import besides itself.
BASE = {"types", "errors", "__version__"}
ALLOWED = {
    "errors": set(),
    "types": {"errors"},
    "phases": set(),
    "jit": BASE,
    "cpu": BASE,
    "ops": BASE,
    "layers": BASE | {"ops", "cpu"},
    "assign": BASE | {"ops"},
    "losses": BASE | {"ops"},
    "recipe": BASE,
    "data": BASE,
    "weights": BASE,
    "models": BASE | {"ops", "phases", "layers", "assign", "losses", "weights"},
    "postprocess": BASE | {"jit"},
    "evaluation": BASE | {"jit"},
    "predictions": BASE | {"data", "evaluation"},
    "engine": BASE | {"ops", "layers", "phases", "recipe", "weights", "predictions", *PARTS},
    "cli": BASE | {"cpu", "recipe", "engine", "data", "postprocess", "evaluation", "predictions"},
}


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def ours(path: Path):
    """The parts of detcli that a file imports."""
    for module, names in imports(path):
        words = module.split(".")
        if words[0] == "detcli":
            yield from words[1:2] or names


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if part_of(path) in ALLOWED]


def test_every_part_is_covered():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert parts == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = part_of(path)
    assert set(ours(path)) - {part} <= ALLOWED[part]


LIGHT = [
    path
    for path in FILES
    if part_of(path) in {"recipe", "postprocess", "evaluation", "predictions", "cli"}
]


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_torch_at_module_level(path):
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] in {"torch", "torchvision"} for name in names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recipes", "list"],
        ["recipes", "show", "atss_r50"],
        ["eval", "--predictions", "FILE", "--plots", "--analyse", "--out", "OUT"],
        ["nms-compare", "FILE", "--bootstrap", "2", "--sweep", "--out", "OUT"],
        ["compare", "FILE", "FILE", "--bootstrap", "2", "--out", "OUT"],
        ["lr-scale", "atss_r18_shapes", "--gpus", "4", "--json"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_light_commands_never_import_torch(arguments, tmp_path):
    write_candidates(tmp_path, "p.json", write_data_set(tmp_path, num_images=6))
    places = {"FILE": str(tmp_path / "p.json"), "OUT": str(tmp_path / "out")}
    arguments = [places.get(argument, argument) for argument in arguments]
    code = (
        "import sys\nfrom detcli.cli.app import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as done: assert not done.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
