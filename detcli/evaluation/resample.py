"""Metrics of resampled data sets, in which each image stands as often as it was drawn.

Nothing is matched or sorted again: an image drawn m times weighs m, in detections and objects.

Letters: S systems, M metrics, R resamples, I images, K classes, T IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcli.evaluation.coco import METRICS, RECALL_THRESHOLDS
from detcli.evaluation.matching import IOU_THRESHOLDS, offsets_by_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.evaluation.matching import MatchTable
    from detcli.types import BoolArray, FloatArray, GroundTruth, IntArray


@dataclass(frozen=True)
class _Counted:
    """Rows that add up per class; the arguments of `weighted_counts`."""

    class_offsets: IntArray
    image: NDArray[np.uint32]
    amount: IntArray


@dataclass(frozen=True)
class _Ranked:
    """A match table in one area range; arguments of the kernel of the same names."""

    thresholds: tuple[int, ...]
    class_offsets: IntArray
    image: NDArray[np.uint32]
    event_offsets: IntArray
    runs: IntArray
    bits: NDArray[np.uint16]


class Resampled:
    """Call it with multiplicities (R, I) int32 for (S, M, R) float64, NaN where undefined.

    The M rows are the named metrics and, with per_class, the AP of each class. Equal to an
    evaluation of explicitly repeated images, with copies adjacent in order of image id. Safe to
    call from several threads at once.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        tables: Sequence[MatchTable],
        metrics: Sequence[str],
        *,
        per_class: bool,
    ) -> None:
        self.metrics, self.per_class = [METRICS[name] for name in metrics], per_class
        needed: dict[int, set[int]] = {}
        for metric in [*self.metrics, METRICS["AP"]] if per_class else self.metrics:
            if not metric.recall:
                needed.setdefault(metric.area, set()).update(metric.thresholds)
        limits = {(metric.area, metric.most) for metric in self.metrics if metric.recall}
        self.objects = {
            area: _counted_objects(ground_truth, tables[0].object_counts[:, area])
            for area in needed.keys() | {area for area, _ in limits}
        }
        self.ranked = [
            {area: _rank(table, area, tuple(sorted(chosen))) for area, chosen in needed.items()}
            for table in tables
        ]
        self.found = [
            {limit: _counted_finds(table, *limit) for limit in limits} for table in tables
        ]

    def __call__(self, multiplicity: NDArray[np.int32]) -> FloatArray:
        objects = {area: _count(rows, multiplicity) for area, rows in self.objects.items()}
        return np.stack(
            [
                self._measure(ranked, found, objects, multiplicity)
                for ranked, found in zip(self.ranked, self.found, strict=True)
            ]
        )

    def _measure(
        self,
        ranked: dict[int, _Ranked],
        found: dict[tuple[int, int], _Counted],
        objects: dict[int, IntArray],
        multiplicity: NDArray[np.int32],
    ) -> FloatArray:
        """(M, R) of one system."""
        precision = {
            area: _average_precision(table, objects[area], multiplicity)
            for area, table in ranked.items()
        }
        rows = []
        for area, thresholds, most, is_recall in self.metrics:
            if not is_recall:
                columns = np.searchsorted(ranked[area].thresholds, thresholds)
                rows.append(_mean_of_defined(precision[area][:, :, columns].mean(2)))
            else:
                counts = _count(found[area, most], multiplicity)
                possible = objects[area] * len(IOU_THRESHOLDS)
                recall = np.where(possible > 0, counts / np.maximum(possible, 1), np.nan)
                rows.append(_mean_of_defined(recall))
        if self.per_class:
            rows.extend(precision[0].mean(2).T)
        return np.stack(rows)


def _mean_of_defined(values: FloatArray) -> FloatArray:
    """(R, K) -> (R,), without the classes that are NaN."""
    defined = ~np.isnan(values)
    count = defined.sum(1)
    total = np.where(defined, values, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _counted_objects(ground_truth: GroundTruth, counts: BoolArray) -> _Counted:
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(ground_truth.labels[rows], kind="stable")]
    return _Counted(
        offsets_by_label(ground_truth.labels[rows], len(ground_truth.class_names)),
        ground_truth.image_index[rows].astype(np.uint32),
        np.ones(len(rows), np.int64),
    )


def _counted_finds(table: MatchTable, area: int, max_per_image: int) -> _Counted:
    """True positives over all IoU thresholds together."""
    bits = table.true_positive[:, area]
    rows = np.flatnonzero((bits != 0) & (table.rank < max_per_image))
    return _Counted(
        offsets_by_label(table.labels[rows], len(table.class_offsets) - 1),
        table.image[rows].astype(np.uint32),
        sum(((bits[rows] >> t) & 1).astype(np.int64) for t in range(len(IOU_THRESHOLDS)))
        + np.zeros(len(rows), np.int64),
    )


def _count(rows: _Counted, multiplicity: NDArray[np.int32]) -> IntArray:
    """(R, K)"""
    from detcli.evaluation.kernels.bootstrap import weighted_counts

    return weighted_counts(rows.class_offsets, rows.image, rows.amount, multiplicity)


def _rank(table: MatchTable, area: int, thresholds: tuple[int, ...]) -> _Ranked:
    """The detections that count at any of the thresholds, laid out for the kernel."""
    true_positive = _at_thresholds(table.true_positive[:, area], thresholds)
    ignored = _at_thresholds(table.ignored[:, area], thresholds)
    kept = np.flatnonzero(ignored != (1 << len(thresholds)) - 1)
    labels, image, scores = table.labels[kept], table.image[kept], table.scores[kept]
    starts = np.ones(len(kept), bool)
    starts[1:] = (np.diff(labels) != 0) | (np.diff(image) != 0) | (scores[1:] != scores[:-1])
    first = np.flatnonzero(starts)
    length = np.diff(np.append(first, len(kept)))

    bits = np.stack([true_positive[kept], ignored[kept]], 1)
    rows = np.flatnonzero(bits.any(1))
    run = np.cumsum(starts)[rows] - 1
    num_classes = len(table.class_offsets) - 1
    return _Ranked(
        thresholds=thresholds,
        class_offsets=offsets_by_label(labels, num_classes),
        image=image.astype(np.uint32),
        event_offsets=offsets_by_label(labels[rows], num_classes),
        runs=np.stack([rows, first[run], length[run]], 1),
        bits=bits[rows],
    )


def _at_thresholds(bits: NDArray[np.uint16], thresholds: tuple[int, ...]) -> NDArray[np.uint16]:
    """Bit n of the result is bit thresholds[n]."""
    result = np.zeros_like(bits)
    for n, t in enumerate(thresholds):
        result |= ((bits >> t) & 1) << n
    return result


def _average_precision(
    table: _Ranked, num_objects: IntArray, multiplicity: NDArray[np.int32]
) -> FloatArray:
    """(R, K, T)"""
    from detcli.evaluation.kernels.bootstrap import weighted_average_precision

    result = np.empty((*num_objects.shape, len(table.thresholds)))
    weighted_average_precision(
        result,
        table.class_offsets,
        table.image,
        table.event_offsets,
        table.runs,
        table.bits,
        num_objects,
        multiplicity,
        RECALL_THRESHOLDS,
    )
    return result
