"""Tricks: named overlays of recipe keys, in recipes/tricks/NAME.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from detcli.errors import RecipeError
from detcli.recipe.explain import all_keys, explain
from detcli.recipe.files import find_trick, trick_names
from detcli.recipe.layers import Mark, Multiple, Setting, leaves
from detcli.recipe.reading import Document, read_file, shown
from detcli.recipe.schema import Recipe
from detcli.recipe.sections.section import Section, Words, flatten, plain
from detcli.text import did_you_mean, one_line

IS_SET = "set"
MULTIPLE = re.compile(r"x(\d+(?:\.\d+)?)")


class TrickInfo(Section):
    """The keys of an overlay in addition to those of the recipe."""

    about: str = Field(min_length=1, description="What the trick does")
    source: str = Field(min_length=1, description="Paper or note that it comes from")
    needs: dict[str, Any] = Field(
        {},
        description="Required settings, dotted key: value or list of values; `set` means "
        "anything but null",
    )
    conflicts: Words = Field((), description="Tricks that it cannot be combined with")


@dataclass(frozen=True)
class Trick:
    """An overlay that was read: what it says about itself and what it sets."""

    name: str
    file: str
    info: TrickInfo
    settings: tuple[Setting, ...]


def read_trick(name: str, order: int) -> Trick:
    """Read recipes/tricks/NAME.yaml, or the file `name`; `order` is its place among the layers.

    Raises:
        RecipeError: there is no such trick, or its file is not valid, one line per fault.
    """
    found = find_trick(name)
    name, file, document = one_line(found.stem), one_line(str(found)), read_file(found)
    info = _read_info(document, file)
    settings = tuple(
        Setting(
            path,
            _relative(value),
            Mark(f"trick {name}", f"{file}:{document.lines[path]}", (order, document.lines[path])),
        )
        for path, value in leaves(document.values)
        if path[0] not in TrickInfo.model_fields
    )
    return Trick(name, file, info, settings)


def list_tricks() -> list[Trick]:
    """The shipped tricks, by name.

    Raises:
        RecipeError: one of them is not valid.
    """
    return [read_trick(name, 1) for name in trick_names()]


def check_choice(tricks: Sequence[Trick]) -> list[str]:
    """One line for each trick that is given twice or together with one that it excludes."""
    names = [trick.name for trick in tricks]
    lines = [
        f"trick {name}: given {names.count(name)} times"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    for position, trick in enumerate(tricks):
        for other in tricks[position + 1 :]:
            if other.name in trick.info.conflicts or trick.name in other.info.conflicts:
                lines.append(f"tricks {trick.name} and {other.name} exclude each other: choose one")
    return lines


def check_needs(tricks: Sequence[Trick], recipe: Recipe) -> list[str]:
    """One line for each condition of a trick that the resolved recipe does not meet."""
    return _unmet(tricks, flatten(plain(recipe)), all_set=True)


def check_early(tricks: Sequence[Trick], values: Mapping[str, Any]) -> list[str]:
    """As `check_needs`, of the values set so far, which need not make a valid recipe: what has no
    value yet is left to that. A detector that lacks a trick's keys is thereby called by name."""
    return _unmet(tricks, flatten(values), all_set=False)


def _unmet(tricks: Sequence[Trick], values: dict[str, Any], *, all_set: bool) -> list[str]:
    lines = []
    for trick in tricks:
        for key, wanted in trick.info.needs.items():
            got = values.get(key, _section_or_none(values, key))
            if got is None and key not in values and not all_set:
                continue
            allowed = wanted if isinstance(wanted, list) else [wanted]
            if not any(_meets(got, choice) for choice in allowed):
                words = " or ".join(map(_in_words, allowed))
                lines.append(
                    f"trick {trick.name} needs {key} to be {words}, but it is {shown(got)}"
                )
    return lines


def _relative(value: Any) -> Any:
    """`x1.5` stands for one and a half times the value without the trick."""
    found = MULTIPLE.fullmatch(value) if isinstance(value, str) else None
    return Multiple(float(found.group(1))) if found else value


def _read_info(document: Document, file: str) -> TrickInfo:
    lines = [f"{file}:{line}: {message}" for line, message in document.problems]
    mine = {key: document.values[key] for key in TrickInfo.model_fields if key in document.values}
    info = None
    try:
        info = TrickInfo.model_validate(mine)
    except ValidationError as error:
        for problem in explain(error, mine, TrickInfo):
            line = document.lines.get(problem.path[:1], 1)
            lines.append(problem.line(f"{file}:{line}"))
    known = all_keys()
    for key in info.needs if info else ():
        if key not in known and not any(name.startswith(f"{key}.") for name in known):
            hint = did_you_mean(key, known)
            where = f"{file}:{document.lines['needs', key]}"
            lines.append(f"{where}: needs: no key {one_line(key)}{hint}")
    if lines or info is None:
        raise RecipeError("\n".join(lines))
    return info


def _section_or_none(values: dict[str, Any], key: str) -> dict[str, Any] | None:
    inner = {name: value for name, value in values.items() if name.startswith(f"{key}.")}
    return inner or None


def _meets(got: Any, wanted: Any) -> bool:
    if wanted == IS_SET:
        return got is not None
    return type(got) is type(wanted) and got == wanted


def _in_words(wanted: Any) -> str:
    return one_line(wanted) if isinstance(wanted, str) else shown(wanted)
