"""What tests of every part can ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.ticks import Ticks

# An example may take as long as it takes on a busy machine.
settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch with a single thread: small maps on shared cores, where more only wait for each
    other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Ticks:
    """A clock that the test sets itself."""
    from tests.ticks import Ticks

    return Ticks(monkeypatch)
