"""Suppression methods as people type them: `soft sigma=0.1 metric=diou`. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from detcli.errors import UsageError
from detcli.postprocess import check_method, method_options, suppress
from detcli.types import Detections

FUSING = ("wbf", "nmw")  # made to fuse the final boxes of several models


@dataclass(frozen=True)
class MethodSpec:
    """A method and the options that were typed for it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method as it was typed."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def params(self) -> dict[str, Any]:
        """Every option of the method with its value, typed or default."""
        return {**method_options(self.name), **self.options}

    def with_defaults(self, **defaults: Any) -> MethodSpec:
        """The same, with further options where they were not typed and the method has them."""
        known = method_options(self.name)
        added = {key: value for key, value in defaults.items() if key in known}
        return MethodSpec(self.name, {**added, **self.options})

    def apply(
        self,
        candidates: Detections,
        *,
        num_models: int = 1,
        weights: Sequence[float] | None = None,
        **shared: Any,
    ) -> Detections:
        """Candidates of a whole data set in, detections out.

        weights: one per model of an ensemble; `shared`: options that every method has. Methods
        that fuse get ones where no weights are given: otherwise a model that found nothing at all
        would not count as one.
        """
        if weights is None and num_models > 1 and self.name in FUSING:
            weights = [1.0] * num_models
        return suppress(candidates, method=self.name, weights=weights, **{**shared, **self.options})


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
    spec = MethodSpec(words[0], options)
    check_method(spec.name, options)
    return spec


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


def _value(text: str) -> Any:
    """A number, true/false, null, or else the text itself."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text
