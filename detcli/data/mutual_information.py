"""How much the pixels of one region tell about those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 16
"""Few enough that a patch of 30 x 30 pixels fills the table of pairs: chance alone adds about
(cells in use) / (2 x values), which 256 bins would make larger than what is looked for."""


def mutual_information(
    first: NDArray[np.uint8], second: NDArray[np.uint8], *, bins: int = BINS
) -> float:
    """Mutual information of two regions of the same shape, in nats.

    Values at the same place, of all channels alike, are the pairs (a, b) of a joint histogram p of
    bins x bins equal cells: sum of p(a, b) log(p(a, b) / (p(a) p(b))) (Shannon 1948). 0 where
    neither tells anything about the other, the entropy of its histogram for a region with itself.
    Raises ValueError on different shapes and on regions without pixels.
    """
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"expected two regions of one shape, got {first.shape}, {second.shape}")
    columns = [(values.reshape(-1).astype(np.int64) * bins) >> 8 for values in (first, second)]
    counts = np.bincount(columns[0] * bins + columns[1], minlength=bins * bins)
    joint = counts.reshape(bins, bins) / first.size
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    value = (joint[seen] * np.log(joint[seen] / apart[seen])).sum()
    return max(0.0, float(value))
