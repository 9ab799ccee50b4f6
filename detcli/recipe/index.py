"""What the shipped recipes say of themselves, without reading their settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from detcli.recipe.files import shipped_recipes
from detcli.recipe.reading import load_text, read_text

SETTINGS = re.compile(r"^data:", re.MULTILINE)  # the first section of a recipe
FIGURES = ("source", "AP", "AP50", "AP75", "APs", "APm", "APl", "note")


class Entry(NamedTuple):
    """A recipe's name, file and description, and the figures to expect, each with all of FIGURES,
    None where it is not known."""

    name: str
    path: Path
    about: str
    expected: tuple[dict[str, Any], ...]


def index_recipes() -> list[Entry]:
    """The shipped recipes by name; what stands before their `data` section is read, and nothing
    is checked: `list_recipes` does that."""
    return [_entry(path) for path in shipped_recipes()]


def _entry(path: Path) -> Entry:
    head = SETTINGS.split(load_text(path), maxsplit=1)[0]
    values = read_text(head, str(path)).values
    figures = tuple({key: each.get(key) for key in FIGURES} for each in values.get("expected", ()))
    return Entry(values["name"], path, values["about"], figures)
