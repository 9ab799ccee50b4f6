"""Collects what is wrong with a data set, so that one message can name everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detcli.errors import DataError
from detcli.text import one_line

SHOWN = 10


def require_distinct(values: Sequence[Any], what: str, where: str) -> None:
    """Raise DataError naming the first value that occurs again."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            repeated = one_line(repr(value))
            raise DataError(f"{one_line(where)}: expected {what} once, got {repeated} twice")
        seen.add(value)


class Problems:
    """Faults by kind, each with the places where it occurs.

    With skip=False `check` raises as soon as there is any fault; with skip=True the faults are
    only counted, and the reader leaves the images or boxes concerned out.
    """

    def __init__(self, source: object, *, skip: bool) -> None:
        self.source = str(source)
        self.skip = skip
        self._places: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, place: object) -> None:
        """Note one fault; only the first ten places of a kind are kept."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        places = self._places.setdefault(kind, [])
        if len(places) < SHOWN:
            places.append(one_line(place))

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """(kind, how many), in the order of first occurrence."""
        return tuple(self._counts.items())

    def check(self) -> None:
        """Raise DataError with every kind, its number and its first ten places, unless skipping."""
        if self.skip or not self._counts:
            return
        parts = []
        for kind, count in self._counts.items():
            places = ", ".join(self._places[kind])
            more = f", and {count - SHOWN} more" if count > SHOWN else ""
            parts.append(f"{kind}: {count} ({places}{more})")
        raise DataError(
            f"{one_line(self.source)}: {'; '.join(parts)}. "
            "Fix the data, or skip these images with data.on_error=skip"
        )
