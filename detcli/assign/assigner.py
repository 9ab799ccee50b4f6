"""What every assigner is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from detcli.ops.priors import Priors


class Assigner(Protocol):
    """A rule that gives priors to objects."""

    def __call__(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Index of the box (P,) int64 of each prior, NEGATIVE or IGNORED; boxes (G, 4) xyxy."""
        ...

    def relaxed(self, factor: float) -> Assigner:
        """A looser rule of the same kind, for an auxiliary head; factor > 1."""
        ...
