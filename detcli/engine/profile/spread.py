"""A median with its quartiles: of times, and of ratios between what was measured in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The median and both quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """The three numbers by name."""
        return asdict(self)

    def text(self, decimals: int) -> str:
        """The median with the quartiles behind it."""
        return f"{self.median:.{decimals}f} ({self.low:.{decimals}f}-{self.high:.{decimals}f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value."""
    low, median, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75)).tolist()
    return Spread(median, low, high)


def paired_ratios(base: Sequence[float], other: Sequence[float]) -> Spread:
    """Spread of other / base, turn by turn: what slows the machine down for a while slows both
    sides of a pair."""
    return spread([after / before for before, after in zip(base, other, strict=True)])
