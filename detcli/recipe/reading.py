"""YAML with line numbers, read as plain data and nothing else.

Only what a recipe needs is understood: mappings with word keys, lists, text, numbers, true/false
and null. Words such as `on`, `off`, `yes` and `no` stay text (YAML 1.1 makes them booleans),
`1e-4` is a number (PyYAML makes it text), dates and base-60 numbers are text. Tags, anchors and
aliases are refused, so a small file cannot expand into a large one or into an object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer

from detcli.errors import RecipeError
from detcli.text import one_line

KeyPath = tuple[str | int, ...]

NULL, BOOL, INT, FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
TEXT = "tag:yaml.org,2002:str"
NUMBER_START = list("-+0123456789.")
# A file longer than this is not a recipe; parsing it would take minutes.
MAX_BYTES = 1_000_000
MAX_DEPTH = 50
SHOWN_LETTERS = 60


@dataclass
class Document:
    """What a YAML text holds: values, the line of every key and list item, and what is wrong.

    `problems` holds (line, message) for faults that leave the rest readable, such as a key that
    occurs twice.
    """

    values: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)


class _Loader(Composer, yaml.CSafeLoader):
    """libyaml's parser with the core schema of YAML 1.2 for plain scalars, and without aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - declared so by PyYAML
    depth = 0

    def __init__(self, text: str) -> None:
        yaml.CSafeLoader.__init__(self, text)
        Composer.__init__(self)

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        problem = None
        if self.check_event(yaml.AliasEvent):
            problem = "anchors and aliases (& *) are not supported"
        elif self.depth > MAX_DEPTH:
            problem = f"nested deeper than {MAX_DEPTH} levels"
        if problem:
            event: Any = self.peek_event()
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class Dumper(yaml.SafeDumper):
    """Writes what `read_text` reads back; text that any YAML reader might take for something
    else is quoted, lists of plain values stay on one line."""

    yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012 - declared so by PyYAML
        key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = (
    r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"
    r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
for _kind, _pattern, _start in (
    (NULL, r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (BOOL, r"^(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (INT, r"^[-+]?[0-9]+$", NUMBER_START),
    (FLOAT, _FLOAT, NUMBER_START),
):
    _Loader.add_implicit_resolver(_kind, re.compile(_pattern), _start)
    Dumper.add_implicit_resolver(_kind, re.compile(_pattern), _start)


def _represent_list(dumper: yaml.SafeDumper, items: Any) -> yaml.Node:
    flow = not any(isinstance(item, dict) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)


Dumper.add_representer(list, _represent_list)


def read_file(path: Path) -> Document:
    """Read a YAML file whose top is a mapping.

    Raises:
        RecipeError: the file is missing, not text, not YAML, or not a mapping.
    """
    where = one_line(str(path))
    document = read_text(load_text(path), where)
    if not isinstance(document.values, dict):
        got = "nothing" if document.values is None else shown(document.values)
        raise RecipeError(f"{where}:1: expected a mapping of recipe sections, got {got}")
    return document


def load_text(path: Path) -> str:
    """The text of a recipe file.

    Raises:
        RecipeError: the file is missing, unreadable, too long or not UTF-8.
    """
    where = one_line(str(path))
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{where}: cannot be read: {reason}") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{where}: {len(content)} bytes; a recipe has at most {MAX_BYTES}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(f"{where}:{line}: not UTF-8 text: {error.reason}") from error


def read_text(text: str, where: str, *, numbered: bool = True) -> Document:
    """Read one YAML document; `where` begins the error line, `numbered` adds the line number.

    Raises:
        RecipeError: the text is not YAML, or uses a part of YAML that recipes do not have.
    """
    document = Document()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            document.values = _value(node, (), document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}" if mark and numbered else where
        problem = error.problem or error.context or "syntax error"
        raise RecipeError(f"{place}: not a valid recipe: {one_line(str(problem))}") from error
    except (yaml.YAMLError, ValueError, OverflowError, IndexError) as error:
        # PyYAML itself raises the last three on broken escapes and impossible characters.
        reason = getattr(error, "reason", None) or error
        raise RecipeError(f"{where}: not a valid recipe: {one_line(str(reason))}") from error
    return document


def _value(node: yaml.Node, path: KeyPath, document: Document) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(path, line)
    if isinstance(node, yaml.MappingNode) and node.tag.endswith(":map"):
        return _mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode) and node.tag.endswith(":seq"):
        return [_value(item, (*path, i), document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    raise _unknown_tag(node)


def _mapping(node: yaml.MappingNode, path: KeyPath, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            got = shown(key) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            document.problems.append((line, f"{dotted(path)}expected a word as key, got {got}"))
            continue
        here = (*path, key)
        if key in values:
            message = f"{dotted(here)}set twice, first in line {document.lines[here]}"
            document.problems.append((line, message))
            continue
        document.lines[here] = line
        values[key] = _value(value_node, here, document)
    return values


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.tag == NULL:
        return None
    if node.tag == BOOL:
        return text.lower() == "true"
    if node.tag == INT:
        return int(text)
    if node.tag == FLOAT:
        # YAML writes .inf and .nan, Python inf and nan.
        is_special = text.lower().endswith(("inf", "nan"))
        return float(text.replace(".", "") if is_special else text)
    if node.tag == TEXT:
        text.encode()  # a lone surrogate (escape \ud800) could not be printed or written
        return text
    raise _unknown_tag(node)


def _unknown_tag(node: yaml.Node) -> yaml.MarkedYAMLError:
    problem = f"tag {node.tag} is not supported"
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def dotted(path: KeyPath) -> str:
    """`data.resize.short[0]: ` for ("data", "resize", "short", 0); nothing for the top."""
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{one_line(part)}"
    return f"{name.removeprefix('.')}: " if path else ""


def shown(value: Any) -> str:
    """A value as an error line shows it: short, on one line, as YAML spells it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return _cut(f"a section with {', '.join(map(repr, value))}") if value else "{}"
    if isinstance(value, list | tuple):
        return _cut(f"[{', '.join(map(shown, value))}]")
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LETTERS else f"{text[: SHOWN_LETTERS - 3]}..."
