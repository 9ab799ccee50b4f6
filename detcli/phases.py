"""Named parts of a training step, for whoever times them; without a listener they do nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Listener = Callable[[str], AbstractContextManager[object]]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_SILENCE = nullcontext()


def phase(name: str) -> AbstractContextManager[object]:
    """A context that the listener, if there is one, has opened under this name."""
    listener = _LISTENER.get()
    return _SILENCE if listener is None else listener(name)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Open a context of `listener` around every phase that begins in here, in this thread."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
