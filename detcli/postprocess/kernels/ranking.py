"""The compiled part of ranking. Importing it compiles or loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import jit

if TYPE_CHECKING:
    from detcli.types import IntArray


@jit("Tuple((i8[::1], i8[::1]))(i8[::1], i8[::1])")
def group_by_class(labels: IntArray, offsets: IntArray) -> tuple[IntArray, IntArray]:
    """Rows by (image, class, input order) and the (S + 1,) offsets of the groups.

    Classes of an image come in the order in which they first occur.
    """
    rows = np.empty(len(labels), np.int64)
    groups = np.empty(len(labels) + 1, np.int64)
    groups[0] = 0
    num_groups = 0
    num_classes = labels.max() + 1 if len(labels) else 0
    # Of the image in hand: how many boxes of a class, later where its next box goes.
    count = np.zeros(num_classes, np.int64)
    seen = np.empty(num_classes, np.int64)
    for image in range(len(offsets) - 1):
        first, last = offsets[image], offsets[image + 1]
        num_seen = 0
        for label in labels[first:last]:
            if count[label] == 0:
                seen[num_seen] = label
                num_seen += 1
            count[label] += 1
        start = first
        for label in seen[:num_seen]:
            size = count[label]
            count[label] = start
            start += size
            num_groups += 1
            groups[num_groups] = start
        for row in range(first, last):
            label = labels[row]
            rows[count[label]] = row
            count[label] += 1
        for label in seen[:num_seen]:
            count[label] = 0
    return rows, groups[: num_groups + 1].copy()
