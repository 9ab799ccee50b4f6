"""Words for messages: a name on one line, and the name that was meant."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST_SLIP = 100  # letters; nobody mistypes a longer name, and comparing them takes long


def one_line(text: object) -> str:
    """The text with control characters escaped, so that it stays on one line."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that `name` is most likely a slip of, or None.

    Fast with thousands of names: only those of a similar length that share most letters are
    compared in full.
    """
    import difflib

    if len(name) > LONGEST_SLIP:
        return None
    similar = [other for other in allowed if 3 * abs(len(other) - len(name)) <= 2 * len(name)]
    found = difflib.get_close_matches(name, similar, n=1)
    return found[0] if found else None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The nearest allowed name as the end of a message; nothing where none is near."""
    close = nearest(name, allowed)
    return f"; did you mean {close}?" if close else ""
