"""Recipe, tricks and command line on top of each other, each value with its origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from detcli.errors import RecipeError
from detcli.recipe.explain import Problem, explain
from detcli.recipe.reading import Document, KeyPath, dotted, read_text, shown
from detcli.recipe.schema import Recipe
from detcli.recipe.sections.section import TAGS, Section, flatten, plain, section_for, tag_of
from detcli.text import one_line

Read = TypeVar("Read")
DEFAULT = "default"
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Mark:
    """Where a value was set: the origin that `recipes show` prints, the beginning of an error
    line about it, and its place among the layers, for sorting."""

    origin: str
    where: str
    order: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Multiple:
    """A value relative to what the layers below say: `x1.5` in an overlay."""

    factor: float

    def of(self, value: Any) -> Any:
        """`value` multiplied, whole numbers rounded, lists item by item; null stays null."""
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        if value is None:
            return None
        return round(value * self.factor) if isinstance(value, int) else value * self.factor


@dataclass(frozen=True)
class Setting:
    """One value for one key."""

    path: KeyPath
    value: Any
    mark: Mark


@dataclass
class Layers:
    """The values so far. Each layer is put over those before it."""

    where: str
    values: dict[str, Any] = field(default_factory=dict)
    marks: dict[KeyPath, Mark] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lines: list[tuple[tuple[int, int], str]] = field(default_factory=list)

    @classmethod
    def from_document(cls, document: Document, where: str) -> Layers:
        """The lowest layer: a recipe file."""
        marks = {
            path: Mark(f"recipe {where}:{line}", f"{where}:{line}", (0, line))
            for path, line in document.lines.items()
        }
        layers = cls(where, document.values, marks)
        for line, message in document.problems:
            layers.report(f"{where}:{line}: {message}", (0, line))
        return layers

    def report(self, line: str, order: tuple[int, int]) -> None:
        """Remember a fault; `validate` raises them all together."""
        self.lines.append((order, line))

    def read_each(
        self, read: Callable[[str, int], Read], texts: Sequence[str], first: int
    ) -> list[Read]:
        """What `read` makes of each text and its place among the layers; faults are reported."""
        found = []
        for order, text in enumerate(texts, start=first):
            try:
                found.append(read(text, order))
            except RecipeError as error:
                self.report(str(error), (order, 0))
        return found

    def apply(self, settings: Sequence[Setting]) -> None:
        """Put one layer on top. Names come first, because they decide which other keys exist."""
        for setting in sorted(settings, key=_names_first):
            if setting.path[-1] in TAGS:
                self._switch(setting, settings)
            self._put(self._absolute(setting))

    def validate(self) -> Recipe:
        """The recipe.

        Raises:
            RecipeError: with one line for every fault of every layer.
        """
        recipe = None
        try:
            recipe = Recipe.model_validate(self.values)
        except ValidationError as error:
            for problem in explain(error, self.values):
                mark = self._nearest_mark(problem)
                self.report(problem.line(mark.where), mark.order)
        if self.lines or recipe is None:
            raise RecipeError("\n".join(line for _, line in sorted(self.lines)))
        return recipe

    def origins(self, recipe: Recipe) -> dict[str, str]:
        """Dotted key -> origin for every resolved value."""
        marks = {".".join(map(str, path)): mark for path, mark in self.marks.items()}
        return {
            key: marks[key].origin if key in marks else DEFAULT for key in flatten(plain(recipe))
        }

    def _nearest_mark(self, problem: Problem) -> Mark:
        for length in range(len(problem.path), -1, -1):
            mark = self.marks.get(problem.path[:length])
            if mark is not None:
                return mark
        return Mark(DEFAULT, self.where)

    def _absolute(self, setting: Setting) -> Setting:
        if not isinstance(setting.value, Multiple):
            return setting
        below, found = _at(self.values, setting.path), self._field(setting.path)
        if below is None and found is not None:
            below = found.default
        return replace(setting, value=setting.value.of(below))

    def _put(self, setting: Setting) -> None:
        current = self.values
        for depth, part in enumerate(setting.path[:-1], start=1):
            inner = current.get(str(part))
            if inner is None:
                inner = current[str(part)] = self._fresh_section(setting.path[:depth], setting)
                self.marks[setting.path[:depth]] = setting.mark
            if not isinstance(inner, dict):
                here = dotted(setting.path[:depth]).removesuffix(": ")
                message = f"{here} is {shown(inner)}, not a section; set {here} itself"
                self.report(f"{setting.mark.where}: {message}", setting.mark.order)
                return
            current = inner
        self._forget(setting.path)
        current[str(setting.path[-1])] = setting.value
        self.marks[setting.path] = setting.mark
        if isinstance(setting.value, Mapping):
            for path, _ in leaves(setting.value, setting.path):
                self.marks[path] = setting.mark

    def _forget(self, path: KeyPath) -> None:
        """Remove the marks of a key and of everything below it."""
        self.marks = {
            other: mark for other, mark in self.marks.items() if other[: len(path)] != path
        }

    def _fresh_section(self, path: KeyPath, setting: Setting) -> dict[str, Any]:
        """A section that no lower layer has set: what its default says beyond its own defaults,
        unless `setting` chooses another kind of section."""
        found = self._field(path)
        default = found.default if found else None
        if found is None or not isinstance(default, Section):
            return {}
        chooses = setting.path == (*path, tag_of(found))
        if chooses and section_for(found, {tag_of(found): setting.value}) is not type(default):
            return {}
        return default.model_dump(mode="json", exclude_unset=True)

    def _field(self, path: KeyPath) -> FieldInfo | None:
        section: type[Section] | None = Recipe
        current: Any = self.values
        found = None
        for part in path:
            found = section.model_fields.get(str(part)) if section else None
            if found is None:
                return None
            current = current.get(part) if isinstance(current, Mapping) else None
            section = section_for(found, current)
        return found

    def _switch(self, setting: Setting, layer: Sequence[Setting]) -> None:
        """Where a layer changes the tag of a section, drop what the new choice does not use."""
        path, tag = setting.path[:-1], str(setting.path[-1])
        found, current = self._field(path), _at(self.values, path)
        if found is None or not isinstance(current, dict):
            return
        old, new = section_for(found, current), section_for(found, {tag: setting.value})
        if old is None or new is None or tag not in old.model_fields:
            return
        dropped = _drop_foreign(current, old, new)
        if new.chooser == tag:
            before = current.get(tag, old.model_fields[tag].default)
            dropped += _drop_idle(current, new, before, setting.value)
        elif new is not old and new.acts_with:
            choices = {each.path: each.value for each in layer}
            chosen = current.get(new.chooser, new.model_fields[new.chooser].default)
            dropped += _drop_idle(current, new, None, choices.get((*path, new.chooser), chosen))
        for name in dropped:
            self._forget((*path, *name.split(".")))
        if dropped:
            prefix = dotted(path).removesuffix(": ")
            names = ", ".join(f"{prefix}.{name}" for name in dropped)
            self.notes.append(
                f"{setting.mark.where}: {prefix} is now {setting.value}, which does not use "
                f"{names}: dropped"
            )


def leaves(values: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """(path, value) of everything that is not a mapping with keys."""
    for key, value in values.items():
        path = (*prefix, key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def parse_override(argument: str, order: int) -> Setting:
    """`key.sub=value` as a setting; the value is read as YAML, never evaluated.

    Raises:
        RecipeError: the argument does not have that form, or its value is not YAML.
    """
    where = f"argument {shown(argument)}"
    key, equals, text = argument.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"{where}: expected key.sub=value, like optim.lr=0.01")
    if any(part.isdigit() or "[" in part for part in parts):
        whole = one_line(".".join(part.split("[")[0] for part in parts if not part.isdigit()))
        raise RecipeError(
            f"{where}: items of a list cannot be set one by one; give the list: {whole}=[...]"
        )
    document = read_text(text, where, numbered=False)
    if document.problems:
        raise RecipeError(f"{where}: {document.problems[0][1]}")
    return Setting(tuple(parts), document.values, Mark(COMMAND_LINE, where, (order, 0)))


def _names_first(setting: Setting) -> tuple[bool, int]:
    is_tag = setting.path[-1] in TAGS
    return (not is_tag, len(setting.path) if is_tag else 0)


def _at(values: Any, path: KeyPath) -> Any:
    for part in path:
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _drop_foreign(values: dict[str, Any], old: type[Section], new: type[Section]) -> list[str]:
    """Remove the keys that only the old choice has; keys that neither has stay, as errors."""
    dropped = [key for key in values if key in old.model_fields and key not in new.model_fields]
    for key in dropped:
        del values[key]
    for key, inner in values.items():
        fields = old.model_fields.get(key), new.model_fields.get(key)
        if fields[0] is None or fields[1] is None or not isinstance(inner, dict):
            continue
        kinds = section_for(fields[0], inner), section_for(fields[1], inner)
        if kinds[0] and kinds[1]:
            dropped += [f"{key}.{name}" for name in _drop_foreign(inner, kinds[0], kinds[1])]
    return dropped


def _drop_idle(values: dict[str, Any], section: type[Section], old: Any, new: Any) -> list[str]:
    """Remove the keys that acted under the old choice and would do nothing under the new one; old
    None: the section was another one, where all acted."""
    dropped = [
        key
        for key, names in section.acts_with.items()
        if key in values
        and (old is None or old in names)
        and new not in names
        and values[key] != section.model_fields[key].default
    ]
    for key in dropped:
        del values[key]
    return dropped
