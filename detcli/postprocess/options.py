"""The options of suppression methods: read from their signatures, checked in one place."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from detcli.errors import UsageError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both allowed unless `above_low`."""

    low: float
    high: float = math.inf
    above_low: bool = False

    def __contains__(self, value: float) -> bool:
        if self.above_low and value == self.low:
            return False
        return self.low <= value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        if self.above_low:
            return f"above {self.low:g}"
        return (
            f"at least {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}"
        )


_POSITIVE = Range(0.0, above_low=True)

# Every numeric option of every method; one name means one thing.
RANGES: dict[str, Range] = {
    "iou_threshold": Range(0.0, 1.0),
    "max_per_image": Range(1.0),
    "score_threshold": Range(0.0, 1.0),
    "skip_box_threshold": Range(0.0, 1.0),
    "sigma": _POSITIVE,
    "sigma_t": _POSITIVE,
    "weights": _POSITIVE,
}


def own_defaults(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Option -> default of a method, from its signature."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def check_value(method: str, function: Callable[..., Any], name: str, value: Any) -> None:
    """Raise UsageError unless this option of the method can have this value."""
    kind = Sequence if name == "weights" else get_type_hints(function)[name]
    if not _fits(name, kind, value):
        raise UsageError(
            f"method {method!r}, {name}: expected {_expected(name, kind)}, got {value!r}"
        )


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The nearest allowed name as the end of a message; nothing if none is near."""
    near = get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _fits(name: str, kind: Any, value: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is bool:
        return isinstance(value, bool)
    if kind is Sequence:
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
        return is_list and all(_fits(name, float, weight) for weight in value)
    if not isinstance(value, Integral if kind is int else Real) or isinstance(value, bool):
        return False
    return float(value) in RANGES[name]


def _expected(name: str, kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if kind is bool:
        return "true or false"
    if kind is Sequence:
        return f"numbers {RANGES[name]}, one per model"
    return f"{RANGES[name]}, a whole number" if kind is int else str(RANGES[name])
