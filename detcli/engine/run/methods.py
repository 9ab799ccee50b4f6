"""Suppression with the options of a section, or as people type them: `soft sigma=0.1 metric=diou`.
Never imports torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from detcli.errors import DataError, UsageError
from detcli.postprocess import METHODS, fuses, suppress
from detcli.recipe.sections.postprocess import SECTIONS, AnyMethod, Column
from detcli.text import did_you_mean
from detcli.types import Detections


def postprocess(
    candidates: Detections, section: AnyMethod, weights: Sequence[float] | None = None
) -> Detections:
    """From candidates to detections, as this section says; weights as in `suppress`.

    Raises DataError as `suppress` does, and where the column that the method needs is missing, has
    another width, or holds values that are not finite or, for `sigma`, not above 0.
    """
    options = section.model_dump()
    if section.column is not None:
        _check_column(candidates, options["method"], section.column)
    return suppress(candidates, weights=weights, **options)


SHARED = ("max_per_image", "class_agnostic")  # options of which a comparison has one for all


def shared_options(section: AnyMethod) -> dict[str, Any]:
    """Those of a section's options that hold for other methods in its place, too."""
    return {key: getattr(section, key) for key in SHARED if hasattr(section, key)}


def own_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a recipe (or the description of its predictions) chose for its method alone: they
    act, and are not the defaults. values: of the section, or what a .meta.json holds of it."""
    kind = SECTIONS[values["method"]]
    return {
        key: values[key]
        for key in kind.acting(values)
        if key not in SHARED and values.get(key) not in (None, kind.model_fields[key].default)
    }


@dataclass(frozen=True)
class MethodSpec:
    """A method and the options that were chosen for it, all of which act.

    shared: options of all methods of a comparison, where not chosen for this one and where the
    method has them; weights: one per model of an ensemble. Neither is part of the label.
    section: every option. Raises UsageError on what the method does not allow.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    weights: Sequence[float] | None = None
    section: AnyMethod = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        fields = _section_class(self.name).model_fields
        shared = {key: value for key, value in self.shared.items() if key in fields}
        section = _checked(self.name, {**shared, **self.options}, f"method {self.label!r}")
        object.__setattr__(self, "section", section)

    @property
    def label(self) -> str:
        """The method as it was typed."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def params(self) -> dict[str, Any]:
        """Every option that has an effect, chosen or default, and the weights."""
        return {**self.section.acting_options(), "weights": self.weights}

    def with_defaults(self, **defaults: Any) -> MethodSpec:
        """The same, with further options where they were not chosen and have an effect."""
        kind = _section_class(self.name)
        known = {key: value for key, value in defaults.items() if key in kind.model_fields}
        acting = kind.acting({**known, **self.options})
        added = {key: value for key, value in known.items() if key in acting}
        return replace(self, options={**added, **self.options})

    def among(
        self, num_models: int = 1, weights: Sequence[float] | None = None, **shared: Any
    ) -> MethodSpec:
        """The same as one of the methods of a comparison, with what is common to all of them.

        Methods that fuse get ones where no weights are given: otherwise a model that found nothing
        at all would not count as one.
        """
        if weights is None and num_models > 1 and fuses(self.name):
            weights = [1.0] * num_models
        return replace(self, shared=shared, weights=weights)

    def apply(self, candidates: Detections) -> Detections:
        """Candidates of a whole data set in, detections out."""
        return postprocess(candidates, self.section, self.weights)


def parse_method(text: str) -> MethodSpec:
    """`NAME [OPTION=VALUE ...]`; raises UsageError, also on a name or option that is unknown."""
    words = text.split()
    if not words:
        raise UsageError("--method: expected NAME [OPTION=VALUE ...], got nothing")
    options: dict[str, Any] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--method {text!r}: expected OPTION=VALUE, got {word!r}")
        if key in options:
            raise UsageError(f"--method {text!r}: {key} is given twice")
        options[key] = _value(value)
    return MethodSpec(words[0], options)


def parse_methods(names: str, methods: Sequence[str]) -> list[MethodSpec]:
    """The comma-separated `--methods` and then each `--method`, no two the same."""
    texts = [name.strip() for name in names.split(",") if name.strip()] + list(methods)
    specs: dict[str, MethodSpec] = {}
    for text in texts:
        spec = parse_method(text)
        if spec.label in specs:
            raise UsageError(f"method {spec.label!r} is asked for twice")
        specs[spec.label] = spec
    return list(specs.values())


def possible_methods(columns: Collection[str]) -> list[str]:
    """The methods that candidates with these extra columns allow."""
    needed = {name: kind.column for name, kind in SECTIONS.items()}
    return [name for name in METHODS if (need := needed[name]) is None or need.name in columns]


def _section_class(method: str) -> type[AnyMethod]:
    if method not in SECTIONS:
        hint = did_you_mean(method, SECTIONS)
        raise UsageError(f"method {method!r}: expected one of {', '.join(SECTIONS)}{hint}")
    return SECTIONS[method]


def _checked(method: str, options: Mapping[str, Any], where: str) -> AnyMethod:
    """The section with these options, none of which may be idle, not even with its default."""
    kind = SECTIONS[method]
    acting = kind.acting(options)
    for key in options:
        if key in kind.acts_with and key not in acting:
            choices = " or ".join(kind.acts_with[key])
            raise UsageError(f"{where}: {key} acts only with {kind.chooser}={choices}; remove it")
    try:
        return kind.model_validate({"method": method, **options})
    except ValidationError as error:
        from detcli.recipe.explain import explain

        lines = [problem.line(where) for problem in explain(error, options, kind)]
        raise UsageError("\n".join(lines)) from error


def _value(text: str) -> Any:
    """A number, true/false, null, or else the text itself."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def _check_column(candidates: Detections, method: str, column: Column) -> None:
    needs = f"method {method!r} needs the column {column.name!r} ({column.meaning})"
    if column.name not in candidates.extra:
        raise DataError(
            f"{needs}, which these candidates lack; a detector with {column.setting} writes it; "
            "take another method, or candidates of such a detector"
        )
    values = candidates.extra[column.name]
    shape = (len(candidates.scores), column.width)[: 1 if column.width == 1 else 2]
    if values.shape != shape:
        raise DataError(f"{needs} of shape {shape}, got {values.shape}")
    fine = np.isfinite(values) & (values > 0 if column.positive else True)
    if not fine.all():
        row = int(np.flatnonzero(~fine.reshape(len(values), -1).all(axis=1))[0])
        wanted = "finite numbers above 0" if column.positive else "finite numbers"
        raise DataError(
            f"{needs} to hold {wanted}, got {values[row].tolist()} "
            f"in image number {int(candidates.image_index[row])}"
        )
