"""Imports point one way, and the light commands never load torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.predicted import write_candidates, write_data_set
from tests.paths import ROOT

PACKAGE = ROOT / "detcli"
PARTS = ("data", "models", "postprocess", "evaluation")
# What each part may import besides itself.
BASE = {"types", "errors", "text", "files", "__version__"}
ALLOWED = {
    "errors": set(),
    "text": set(),
    "files": {"errors"},
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
    "engine": BASE | {"ops", "cpu", "layers", "phases", "recipe", "weights", "predictions", *PARTS},
    "cli": BASE | {"cpu", "recipe", "engine", "data", "postprocess", "evaluation", "predictions"},
}


# What these look up only to name the types of their options: nothing is imported when they run.
TYPED_BY_RECIPE = {"models", "assign", "losses", "layers", "data"}


def imports(path: Path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if part_of(path) in TYPED_BY_RECIPE and is_type_checking(node):
            node.body = [line for line in node.body if not is_section(line)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def is_section(node: ast.AST) -> bool:
    within = "detcli.recipe.sections"
    return isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{within}.")


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


# The rooms of the engine, floor by floor: each imports only what lies on lower floors.
FLOORS = (
    {"run", "pictures", "lr_scale"},
    {"detect", "compare"},
    {"train", "inject"},
    {"profile", "ablate"},
)


def test_every_room_of_the_engine_has_a_floor():
    rooms = {
        path.name for path in (PACKAGE / "engine").iterdir() if (path / "__init__.py").exists()
    }
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("room", sorted(set().union(*FLOORS)))
def test_rooms_of_the_engine_import_only_downwards(room):
    (floor,) = (number for number, rooms in enumerate(FLOORS) if room in rooms)
    lower = set().union(*FLOORS[:floor])
    for path in (PACKAGE / "engine" / room).rglob("*.py"):
        rooms = {name.split(".")[2] for name in modules(path) if name.startswith("detcli.engine.")}
        assert rooms - {room} <= lower, path


def name_of(path: Path) -> str:
    """A file's name as a module."""
    words = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


NAMES = {name_of(path) for path in PACKAGE.rglob("*.py")}


def modules(path: Path) -> set[str]:
    """The modules of detcli that a file imports, those for type checking included."""
    found = set()
    for module, names in imports(path):
        parts = {f"{module}.{name}" for name in names}
        found |= parts if parts and parts <= NAMES else {*parts, module}
    return (found & NAMES) - {name_of(path)}


def test_no_file_imports_itself_by_a_detour():
    graph = {name_of(path): modules(path) for path in PACKAGE.rglob("*.py")}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names them


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


@pytest.mark.slow
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
