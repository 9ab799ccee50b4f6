"""What every method does before and after its own work: group and rank the boxes, keep the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.postprocess.ensemble import MODEL
from detcli.types import Detections, offsets_of

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


def group(candidates: Detections, *, class_agnostic: bool) -> tuple[IntArray, IntArray]:
    """(N,) rows by (image, class, input order) and the (S + 1,) offsets of these S groups.

    Only boxes of one group can suppress each other; class_agnostic: a group is an image.
    """
    from detcli.jit import as_kernel_input
    from detcli.postprocess.kernels.ranking import group_by_class

    offsets = as_kernel_input(candidates.offsets, np.int64)
    if class_agnostic:
        return np.arange(len(candidates.scores)), offsets
    return group_by_class(as_kernel_input(candidates.labels, np.int64), offsets)


def rank(
    candidates: Detections, keys: FloatArray, *, class_agnostic: bool
) -> tuple[IntArray, IntArray]:
    """The same, each group by (key descending, input order); keys (N,), one per row."""
    from detcli.jit import descending_order

    rows, groups = group(candidates, class_agnostic=class_agnostic)
    return rows[descending_order(keys[rows], groups)], groups


def best_rows(
    candidates: Detections, rows: IntArray, scores: FloatArray, max_per_image: int
) -> tuple[IntArray, IntArray]:
    """Which of the surviving `rows` are a result, and the (I + 1,) offsets of that result.

    rows (K,) and their scores (K,) in any order; returns positions in `rows`, by image, then
    (score descending, input order), at most `max_per_image` of each image.
    """
    from detcli.jit import descending_order

    # No row is there twice, so marking them sorts them.
    survives = np.zeros(len(candidates.scores), np.bool_)
    survives[rows] = True
    position = np.empty(len(candidates.scores), np.int64)
    position[rows] = np.arange(len(rows))
    ascending = np.flatnonzero(survives)
    by_row = position[ascending]
    offsets = np.searchsorted(ascending, candidates.offsets)
    order = by_row[descending_order(scores[by_row], offsets)]
    counts = np.diff(offsets)
    place = np.arange(len(rows)) - np.repeat(offsets[:-1], counts)
    return order[place < max_per_image], offsets_of(np.minimum(counts, max_per_image))


def result(
    candidates: Detections,
    rows: IntArray,
    scores: FloatArray,
    max_per_image: int,
    boxes_xywh: FloatArray | None = None,
) -> Detections:
    """The best of the surviving rows with their scores and, where they were merged, boxes.

    rows, scores (K,), boxes_xywh (K, 4). Labels and extra columns, `model` apart, are those of
    the rows.
    """
    best, offsets = best_rows(candidates, rows, scores, max_per_image)
    taken = rows[best]
    return Detections(
        offsets=offsets,
        boxes_xywh=candidates.boxes_xywh[taken] if boxes_xywh is None else boxes_xywh[best],
        scores=scores[best],
        labels=candidates.labels[taken],
        extra={name: column[taken] for name, column in candidates.extra.items() if name != MODEL},
    )
