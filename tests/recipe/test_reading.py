"""YAML as recipes read it: numbers, words, lines, and one line for whatever is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from detcli.errors import RecipeError
from detcli.recipe.reading import Dumper, read_file, read_text
from tests.recipe.texts import MINIMAL, lines_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),  # PyYAML alone reads text here
        ("5E3", 5000.0),
        ("1.e2", 100.0),
        (".5", 0.5),
        ("-2", -2),
        ("010", 10),  # YAML 1.1: octal 8
        ("1:30", "1:30"),  # YAML 1.1: base 60, 90
        ("2026-01-02", "2026-01-02"),
        ("1x", "1x"),
        ("on", "on"),  # YAML 1.1: true
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("[1, [a, null]]", [1, ["a", None]]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_values(text: str, value: object) -> None:
    read = read_text(text, "here").values
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("value", ["1e-4", "on", "null", "1", "~", "a: b", "ä#x", "", "2026-01-02"])
def test_dumped_text_stays_text(value: str) -> None:
    written = yaml.dump({"key": value}, Dumper=Dumper, allow_unicode=True)
    assert read_text(written, "here").values == {"key": value}
    assert yaml.safe_load(written) == {"key": value}  # any other reader agrees


def test_lines_of_keys_and_items() -> None:
    lines = read_text("a: 1\nb:\n  c:\n    - 1\n    - 2\n", "here").lines
    assert lines["a",] == 1
    assert lines["b", "c"] == 3
    assert lines["b", "c", 1] == 5


BROKEN = {
    "text that is no YAML": (b"a: [1\nb: 2\n", 2),
    "a tab as indentation": (b"a:\n\tb: 1\n", 2),
    "an alias": (b"a: &x 1\nb: *x\n", 2),
    "a recursive alias": (b"a: &x [*x]\n", 1),
    "a python tag": (b"a: !!python/object/apply:os.system [ls]\n", 1),
    "a binary tag": (b"a: !!binary aGk=\n", 1),
    "two documents": (b"a: 1\n---\nb: 2\n", 2),
    "not UTF-8": (b"a: 1\nb: \xff\n", 2),
    "nothing": (b"", 1),
    "only comments": (b"# a\n", 1),
    "a list": (b"- a\n", 1),
    "a word": (b"recipe\n", 1),
    "too deep": (b"[" * 5000, 1),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_give_one_line_with_file_and_line(case: str, tmp_path: Path) -> None:
    content, line = BROKEN[case]
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x01\x02",
        b'a: "\\ud800"\n',
        b'a: "\\UFFFFFFFF"\n',
        b"a: " + b"9" * 5000,
        b"x" * 2_000_000,
    ],
)
def test_impossible_content_gives_one_line_with_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path}:")
    assert len(str(caught.value).splitlines()) == 1


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(RecipeError, match="cannot be read"):
            read_file(path)


def test_a_key_set_twice_is_an_error(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, MINIMAL.replace("  lr: 0.02", "  lr: 0.02\n  lr: 0.01"))
    assert line == "small.yaml:10: optim.lr: set twice, first in line 9"


def test_a_number_as_key_is_an_error(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, MINIMAL + "train: {1: 2}\n")
    assert line == "small.yaml:11: train: expected a word as key, got 1"
