"""What tests of every part can ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ticks import Ticks


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
