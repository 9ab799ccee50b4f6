"""From pydantic's errors to one line each: where, which key, what was expected, what was found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from detcli.recipe.reading import KeyPath, dotted, shown
from detcli.recipe.schema import Recipe
from detcli.recipe.sections.section import (
    BROKEN_RULES,
    Section,
    default_name,
    section_for,
    tag_of,
    variants,
)
from detcli.text import did_you_mean, nearest


@dataclass(frozen=True)
class Problem:
    """One fault of a recipe: the key and what is wrong with it."""

    path: KeyPath
    message: str

    def line(self, where: str) -> str:
        """The line for the user; `where` is a file and line, or an argument."""
        return f"{where}: {dotted(self.path)}{self.message}"


def explain(
    error: ValidationError, values: Mapping[str, Any], root: type[Section] = Recipe
) -> list[Problem]:
    """Every fault that pydantic found in `values`, each once."""
    found: dict[Problem, None] = {}
    for detail in error.errors(include_url=False):
        path, section = _locate(detail["loc"], values, root)
        for problem in _problems(dict(detail), path, section, root):
            found.setdefault(problem)
    return list(found)


def all_keys(root: type[Section] = Recipe) -> list[str]:
    """Every dotted key that some recipe (or what `root` describes) can have."""
    return list(dict.fromkeys(_keys_of(root, "")))


def _keys_of(section: type[Section], prefix: str) -> Iterator[str]:
    for key, field in section.model_fields.items():
        inner = variants(field)
        if not inner:
            yield f"{prefix}{key}"
        for kind in inner.values():
            yield from _keys_of(kind, f"{prefix}{key}.")


def _locate(
    loc: tuple[str | int, ...], values: Mapping[str, Any], root: type[Section]
) -> tuple[KeyPath, type[Section] | None]:
    """The key path behind pydantic's location, which also names the chosen variant of a section,
    and the section class that holds its last part."""
    path: list[str | int] = []
    section: type[Section] | None = root
    holder: type[Section] | None = root
    current: Any = values
    skip = ""
    for part in loc:
        if skip and part == skip:
            skip = ""
            continue
        path.append(part)
        holder = section
        current = current.get(part) if isinstance(current, Mapping) else None
        field = _field(section, part)
        section = section_for(field, current) if field else None
        skip = ""  # pydantic says the choice too
        if field is not None and field.discriminator is not None and isinstance(current, Mapping):
            skip = str(current.get(tag_of(field), default_name(field)))
    return tuple(path), holder


def _problems(
    detail: Mapping[str, Any], path: KeyPath, holder: type[Section] | None, root: type[Section]
) -> Iterator[Problem]:
    kind, context = detail["type"], detail.get("ctx", {})
    got = context.get("got", detail.get("input"))
    if kind == BROKEN_RULES:
        for key, message in context["rules"]:
            yield Problem((*path, *key.split(".")), message)
    elif kind == "extra_forbidden":
        yield Problem(path, _unknown(path, holder, root))
    elif kind == "missing" and isinstance(path[-1], int):
        yield Problem(path, "missing from the list")
    elif kind == "missing":
        field = _field(holder, path[-1])
        purpose = f" ({field.description})" if field and field.description else ""
        yield Problem(path, f"required, but not set{purpose}")
    elif kind == "union_tag_not_found" and isinstance(got, Mapping):
        tag = context["discriminator"].strip("'")
        choices = _or(_choices(_field(holder, path[-1])))
        yield Problem((*path, tag), f"required, but not set; expected {choices}")
    elif kind == "union_tag_invalid":
        allowed = _choices(_field(holder, path[-1]))
        message = _expected(_or(allowed), context["tag"], allowed)
        yield Problem((*path, context["discriminator"].strip("'")), message)
    elif kind == "literal_error":
        allowed = [
            word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")
        ]
        yield Problem(path, _expected(_or(allowed), got, allowed))
    else:
        yield Problem(path, _expected(_wanted(kind, detail["msg"], got), got))


WANTED = {
    "model_type": "a section (key: value)",
    "model_attributes_type": "a section (key: value)",
    "union_tag_not_found": "a section (key: value)",
    "too_short": "at least one value",
    "string_pattern_mismatch": "a word of letters, digits, _, - and .",
    "string_too_short": "some text",
}


def _wanted(kind: str, message: str, got: Any) -> str:
    if kind == "tuple_type":
        return f"a list, like [{got}]" if isinstance(got, str) and got.isidentifier() else "a list"
    if kind == "too_long":
        at_most = message.removeprefix("Tuple should have ").split(" after")[0]
        return at_most.replace("item", "value")
    spoken = message.removeprefix("Input should be ").replace("boolean", "true or false")
    return WANTED.get(kind, spoken)


def _expected(wanted: str, got: Any, allowed: Iterable[str] = ()) -> str:
    hint = did_you_mean(got, allowed) if isinstance(got, str) else ""
    return f"expected {wanted}, got {shown(got)}{hint}"


def _unknown(path: KeyPath, holder: type[Section] | None, root: type[Section]) -> str:
    key, allowed = str(path[-1]), list(holder.model_fields) if holder else []
    close = nearest(key, allowed)
    if close is None:
        # Not the key itself, which another choice of `name` may have.
        own = ".".join(map(str, path))
        same = [name for name in all_keys(root) if name.rsplit(".", 1)[-1] == key and name != own]
        close = min(same, key=lambda name: name.count("."), default=None)
    hint = f" did you mean {close}?" if close else ""
    return f"unknown key;{hint} allowed here: {', '.join(allowed)}"


def _or(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _field(holder: type[Section] | None, key: str | int) -> FieldInfo | None:
    return holder.model_fields.get(str(key)) if holder else None


def _choices(field: FieldInfo | None) -> list[str]:
    return list(variants(field)) if field else []
