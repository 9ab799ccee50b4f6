"""What every section of a recipe shares: frozen, strict, and able to list all its problems.

The modules that define sections go without `from __future__ import annotations`, under which
pydantic would have to parse each annotation again.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


def rule(holds: Callable[[Any], bool], wanted: str) -> AfterValidator:
    """For the type of a list: what its numbers must be, and how an error line says so."""

    def check(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not holds(values):
            context = {"wanted": wanted, "got": list(values)}
            raise PydanticCustomError("rule", "Input should be {wanted}", context)
        return values

    return AfterValidator(check)


ABOVE_ZERO = rule(lambda numbers: all(n > 0 for n in numbers), "numbers greater than 0")

# Sections are strict (no text for a number, no number for a switch), but YAML only has lists, and
# a frozen recipe wants tuples: this one conversion is let through.
Numbers = Annotated[tuple[float, ...], Field(strict=False)]
Triple = Annotated[tuple[float, float, float], Field(strict=False)]
Quadruple = Annotated[tuple[float, float, float, float], Field(strict=False)]
SizesPerLevel = Annotated[tuple[Numbers, ...], Field(strict=False, min_length=1)]
Pair = Annotated[tuple[float, float], Field(strict=False)]
Integers = Annotated[tuple[int, ...], Field(strict=False)]
Words = Annotated[tuple[str, ...], Field(strict=False)]
SOME = Field(min_length=1)
PositiveNumbers = Annotated[Numbers, SOME, ABOVE_ZERO]
PositiveIntegers = Annotated[Integers, SOME, ABOVE_ZERO]
Pixels = Annotated[Integers, SOME, rule(lambda sides: min(sides) > 0, "pixels greater than 0")]
ScoreThreshold = Annotated[
    float, Field(ge=0, lt=1, description="Score threshold of the candidates")
]
Probability = Annotated[float, Field(ge=0, le=1)]

BROKEN_RULES = "broken_rules"
TAGS = ("name", "method")  # keys that say which section of a union is meant

Named = Callable[[str], tuple[int, int]]
"""How many parts of the built detector have a name, and how many parameters these have."""


class Section(BaseModel):
    """A part of a recipe.

    `acts_with` names, for a key that only some choices of `name` (or of the key in `chooser`) use,
    those choices: setting such a key to anything but its default under another choice is an
    error, because it would do nothing. `at_most` names, for a key, the key whose value it must not
    exceed. `enables` names the keys of other sections, dotted, that
    act only with a model of this class or of others that say so. `batch_norms` names the keys that
    can ask for batch norms with statistics of the training images.
    """

    # Built when first used, not when defined: most sections only as a part of the whole recipe.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True
    )
    chooser: ClassVar[str] = "name"
    acts_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    at_most: ClassVar[Mapping[str, str]] = {}
    enables: ClassVar[tuple[str, ...]] = ()
    batch_norms: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong) for every broken rule that involves more than one key."""
        return iter(())

    def recipe_problems(self, recipe: Any, key: str) -> Iterator[tuple[str, str]]:
        """Yield (dotted key, what is wrong) for every broken rule that involves other sections of
        the recipe; `key`: where in it this one stands."""
        return iter(())

    def is_changed(self, key: str) -> bool:
        """Whether this key has another value than its default."""
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    def announce(self, named: Named) -> Iterator[str]:
        """Yield what the log should say of this part of a detector before the first step."""
        return iter(())

    @model_validator(mode="before")
    @classmethod
    def _name_sections(cls, values: Any) -> Any:
        """Give the sections whose tag may be left out theirs."""
        if not isinstance(values, Mapping):
            return values
        named = dict(values)
        for key, field in cls.model_fields.items():
            inner, name, tag = named.get(key), default_name(field), tag_of(field)
            if name is not None and isinstance(inner, Mapping) and tag not in inner:
                named[key] = {tag: name, **inner}
        return named

    @model_validator(mode="after")
    def _check_rules(self) -> "Section":
        found = [*self._idle_keys(), *self._too_large(), *self.problems()]
        if found:
            raise PydanticCustomError(BROKEN_RULES, "several keys disagree", {"rules": found})
        return self

    def _idle_keys(self) -> Iterator[tuple[str, str]]:
        name = getattr(self, self.chooser, None)
        for key, names in self.acts_with.items():
            if name not in names and self.is_changed(key):
                wanted = " or ".join(names)
                choice = f"{self.chooser} {wanted}, but {self.chooser} is {name}"
                yield key, f"acts only with {choice}; remove it"

    def _too_large(self) -> Iterator[tuple[str, str]]:
        for key, limit in self.at_most.items():
            value, most = getattr(self, key), getattr(self, limit)
            if value > most:
                yield key, f"expected at most {limit} ({most}), got {value}"


def walk(section: Section, key: str = "") -> Iterator[tuple[str, Section]]:
    """A section that stands at `key` and all within it, each with its dotted key."""
    yield key, section
    for name in type(section).model_fields:
        inner = getattr(section, name)
        if isinstance(inner, Section):
            yield from walk(inner, f"{key}.{name}".lstrip("."))


def tag_of(field: FieldInfo) -> str:
    """The key by which the sections of a union are told apart; `name` where there is no choice."""
    return str(field.discriminator or TAGS[0])


def variants(field: FieldInfo) -> dict[str, type[Section]]:
    """The sections that a key can hold, by their tag; {"": section} where there is no choice.

    Empty for a key that holds a plain value or a list.
    """
    if field.discriminator is None:
        kinds = (kind for kind in _alternatives(field.annotation) if isinstance(kind, type))
        found = next((kind for kind in kinds if issubclass(kind, Section)), None)
        return {"": found} if found else {}
    return {
        str(get_args(kind.model_fields[tag_of(field)].annotation)[0]): kind
        for kind in _alternatives(field.annotation)
    }


def section_for(field: FieldInfo, value: Any) -> type[Section] | None:
    """The section class that describes `value` of this key; None for plain values, and for a
    choice that `value` does not make."""
    choices = variants(field)
    if "" in choices:
        return choices[""]
    name = value.get(tag_of(field), default_name(field)) if isinstance(value, Mapping) else None
    return choices.get(name) if isinstance(name, str) else None


def default_name(field: FieldInfo) -> str | None:
    """The tag that a section of this key has when it says none: that of the key's default, where
    the default's own class has one by itself. None where there is no such choice."""
    if field.discriminator is None or not isinstance(field.default, Section):
        return None
    name = type(field.default).model_fields[tag_of(field)].default
    return name if isinstance(name, str) else None


def plain(value: Any) -> Any:
    """A section as dictionaries and lists of plain values, its tag first."""
    if isinstance(value, Section):
        fields = sorted(type(value).model_fields, key=lambda key: key not in TAGS)
        return {key: plain(getattr(value, key)) for key in fields}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value for every leaf; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{dotted}."))
        else:
            flat[dotted] = value
    return flat


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)
