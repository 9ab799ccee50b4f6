"""Precision against recall, and the score at which a class is best cut.

Letters: K classes, T IoU thresholds, P = 101 recall thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcli.errors import UsageError
from detcli.evaluation.coco import RECALL_THRESHOLDS
from detcli.evaluation.matching import IOU_THRESHOLDS

if TYPE_CHECKING:
    from detcli.evaluation.matching import MatchTable
    from detcli.types import BoolArray, FloatArray, GroundTruth, IntArray


@dataclass(frozen=True)
class Curves:
    """Interpolated precision as COCO averages it, and the best cut of each class.

    recall (P,); precision (K, T, P), the mean of a row is that class's AP; mean_precision (T, P)
    over the classes with objects; best_score, best_f1, best_precision, best_recall (K, T): the
    largest F1 that keeping detections of at least that score gives, and what goes with it.
    NaN where a class has no object to find; best_* also where it has no detection that counts.
    """

    class_names: tuple[str, ...]
    iou_thresholds: tuple[float, ...]
    recall: FloatArray
    precision: FloatArray
    mean_precision: FloatArray
    best_score: FloatArray
    best_f1: FloatArray
    best_precision: FloatArray
    best_recall: FloatArray


def precision_recall(
    ground_truth: GroundTruth, table: MatchTable, *, iou_thresholds: Sequence[float] = (0.5, 0.75)
) -> Curves:
    """Curves from a table that `match` made of this ground truth, objects of any size.

    iou_thresholds: out of COCO's ten. F1 = 2 TP / (2 TP + FP + FN); of several scores with the
    same F1 the highest is given. Raises UsageError on another IoU threshold.
    """
    positions = [threshold_position(value) for value in iou_thresholds]
    num_classes = len(ground_truth.class_names)
    counted = ground_truth.labels[table.object_counts[:, 0]]
    num_objects = np.bincount(counted, minlength=num_classes)
    shape = (num_classes, len(positions))
    precision = np.full((*shape, len(RECALL_THRESHOLDS)), np.nan)
    best = np.full((4, *shape), np.nan)
    for label in np.flatnonzero(num_objects):
        rows = slice(*table.class_offsets[label : label + 2])
        for n, t in enumerate(positions):
            true, false = verdicts(table, t, rows)
            found, wrong = np.cumsum(true, dtype=np.int64), np.cumsum(false, dtype=np.int64)
            precision[label, n] = _interpolate(found, wrong, num_objects[label])
            kept = true | false
            best[:, label, n] = _best_cut(
                table.scores[rows][kept], found[kept], wrong[kept], num_objects[label]
            )
    present = precision[num_objects > 0]
    return Curves(
        class_names=ground_truth.class_names,
        iou_thresholds=tuple(float(IOU_THRESHOLDS[t]) for t in positions),
        recall=RECALL_THRESHOLDS.copy(),
        precision=precision,
        mean_precision=present.mean(0) if len(present) else np.full(precision.shape[1:], np.nan),
        best_score=best[0],
        best_f1=best[1],
        best_precision=best[2],
        best_recall=best[3],
    )


def threshold_position(iou_threshold: float) -> int:
    """Which of COCO's ten IoU thresholds this is; UsageError if it is none of them."""
    distance = np.abs(IOU_THRESHOLDS - iou_threshold)
    if not distance.min() < 1e-9:
        known = ", ".join(f"{value:.2f}" for value in IOU_THRESHOLDS)
        raise UsageError(f"IoU threshold {iou_threshold}: expected one of {known}")
    return int(distance.argmin())


def verdicts(table: MatchTable, position: int, rows: slice) -> tuple[BoolArray, BoolArray]:
    """True positives, and false ones, at an IoU threshold; ignored detections are neither."""
    true = (table.true_positive[rows, 0] >> position) & 1 == 1
    ignored = (table.ignored[rows, 0] >> position) & 1 == 1
    return true, ~true & ~ignored


def _interpolate(found: IntArray, wrong: IntArray, num_objects: int) -> FloatArray:
    """(P,) best precision at that recall or a higher one; 0 beyond the last."""
    # The tiny number is pycocotools': the mean equals AP exactly.
    precision = found / (found + wrong + np.finfo(np.float64).eps)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(precision, 0.0)[np.searchsorted(found / num_objects, RECALL_THRESHOLDS)]


def _best_cut(
    scores: FloatArray, found: IntArray, wrong: IntArray, num_objects: int
) -> tuple[float, float, float, float]:
    """Score, F1, precision and recall of the cut with the largest F1."""
    if not len(scores):
        return (np.nan,) * 4
    # A cut cannot part equal scores: only the last of each counts.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    scores, found, wrong = scores[ends], found[ends], wrong[ends]
    f1 = 2 * found / (found + wrong + num_objects)
    best = int(f1.argmax())
    precision = found[best] / (found[best] + wrong[best])
    return float(scores[best]), float(f1[best]), float(precision), float(found[best] / num_objects)
