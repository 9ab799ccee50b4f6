"""Data sets in which images are repeated explicitly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detcli.types import Detections


def repeat_images(ground_truth, detections, multiplicity):
    """Each image as often as multiplicity says; ids keep their order, copies are adjacent."""
    images = np.repeat(np.arange(len(multiplicity)), multiplicity)
    copies = np.concatenate([[], *(np.arange(count) for count in multiplicity)])
    ids = ground_truth.image_ids[images] * (max(multiplicity) + 1) + copies.astype(np.int64)

    def rows_of(offsets):
        parts = [np.arange(offsets[i], offsets[i + 1]) for i in images]
        counts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        return np.concatenate([*parts, []]).astype(np.int64), counts.astype(np.int64)

    rows, offsets = rows_of(ground_truth.offsets)
    columns = ("boxes_xywh", "labels", "area", "crowd", "difficult")
    repeated = replace(
        ground_truth,
        image_ids=ids,
        offsets=offsets,
        **{name: getattr(ground_truth, name)[rows] for name in columns},
    )
    rows, offsets = rows_of(detections.offsets)
    return repeated, Detections(
        offsets, detections.boxes_xywh[rows], detections.scores[rows], detections.labels[rows]
    )
