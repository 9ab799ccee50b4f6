"""How large and how entangled a room, a file and a function may be."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from detcli.models import DETECTORS
from tests.paths import ROOT
from tests.places import EXAMPLES, PACKAGE, places

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES_OF_A_FOLDER = 25
LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 60
ARGUMENTS = 8  # of a constructor or a builder
# Say fix, overfit, compared with, resumes, CPU, next to or in addition to.
RETIRED = re.compile(r"\b(mend(s|ed)?|by heart|held against|goes on|processors?|beside|so many)\b")

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


@cache
def functions(path: Path) -> tuple[ast.FunctionDef, ...]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return tuple(node for node in nodes if isinstance(node, ast.FunctionDef))


def test_a_folder_is_small_enough_to_be_searched():
    sizes = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert {str(folder): size for folder, size in sizes.items() if size > MODULES_OF_A_FOLDER} == {}


@each_file
def test_a_file_is_short(path):
    assert len(path.read_text().splitlines()) <= LINES_OF_A_FILE


@each_file
def test_a_function_fits_on_a_screen(path):
    lengths = {each.name: each.end_lineno - each.lineno + 1 for each in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_OF_A_FUNCTION} == {}


@each_file
def test_constructors_and_builders_take_few_arguments(path):
    counts = {}
    for each in functions(path):
        if each.name == "__init__" or each.name.lstrip("_").startswith("build"):
            given = [*each.args.posonlyargs, *each.args.args, *each.args.kwonlyargs]
            counts[f"{each.name}:{each.lineno}"] = sum(one.arg != "self" for one in given)
    assert {name: count for name, count in counts.items() if count > ARGUMENTS} == {}


@each_file
def test_what_a_user_reads_is_in_the_words_of_the_field(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
    texts = [node for node in nodes if isinstance(node, ast.Constant) and node not in docstrings]
    assert [each.value for each in texts if RETIRED.search(str(each.value))] == []


def test_the_formatter_has_its_way():
    marks = ("fmt: " + "skip", "fmt: " + "off")
    sources = [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]
    assert [str(path) for path in sources if any(mark in path.read_text() for mark in marks)] == []


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_and_its_section_have_the_same_file_name(name):
    assert (PACKAGE / "models" / f"{name}.py").is_file()
    assert (PACKAGE / "recipe" / "sections" / "models" / f"{name}.py").is_file()


@pytest.mark.parametrize("kind", EXAMPLES)
def test_another_one_takes_few_places(kind):
    pattern, most = EXAMPLES[kind]
    assert 2 <= len(places(pattern)) <= most, places(pattern)
