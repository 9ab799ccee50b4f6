"""Phases are heard by a listener, in order and nested, and are silent otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from detcli.phases import listening, phase


def test_a_listener_is_told_where_phases_begin_and_end() -> None:
    heard: list[str] = []

    @contextmanager
    def listener(name: str) -> Iterator[None]:
        heard.append(f"+{name}")
        try:
            yield
        finally:
            heard.append(f"-{name}")

    def fails() -> None:
        with phase("loss"), phase("assignment"):
            pass
        with phase("backward"):
            raise KeyError

    with phase("before"):
        pass
    with pytest.raises(KeyError), listening(listener):
        fails()
    with phase("after"):
        pass
    assert heard == ["+loss", "+assignment", "-assignment", "-loss", "+backward", "-backward"]
