"""What kinds of errors a detector makes, and the AP50 that each kind costs.

After Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020.

Letters: K classes, D detections, G objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from detcli.evaluation.coco import RECALL_THRESHOLDS
from detcli.evaluation.curves import verdicts
from detcli.evaluation.matching import IOU_THRESHOLDS, offsets_by_label

if TYPE_CHECKING:
    from detcli.evaluation.matching import MatchTable
    from detcli.types import BoolArray, Detections, FloatArray, GroundTruth, IntArray

ERROR_KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
SPECIAL_KINDS = ("false positives", "false negatives")
FOREGROUND_IOU = float(IOU_THRESHOLDS[0])
BACKGROUND_IOU = 0.1


@dataclass(frozen=True)
class ErrorReport:
    """AP50 and what stands between it and 1. None where no class has an object to find.

    cost: each of ERROR_KINDS -> gain in AP50 if errors of that kind alone were fixed, 0 where
    that would lose; special: each of SPECIAL_KINDS -> gain without any; count: each of
    ERROR_KINDS -> number of detections, for `missed` of objects. Costs do not add up to 1 - AP50.
    """

    AP50: float | None
    cost: dict[str, float | None]
    special: dict[str, float | None]
    count: dict[str, int]


@dataclass(frozen=True)
class _Ranking:
    """What AP is computed from. Columns (D,): class, score, and whether a detection is true and
    whether it is there at all; num_objects (K,) to find; asked (K,): classes with objects before
    any remedy."""

    labels: IntArray
    scores: FloatArray
    true: BoolArray
    shown: BoolArray
    num_objects: IntArray
    asked: BoolArray


def error_report(
    ground_truth: GroundTruth, detections: Detections, table: MatchTable
) -> ErrorReport:
    """Sort false positives and missed objects into kinds, and fix one kind at a time.

    table: from `match` of the same ground truth and detections. A false positive is, in this
    order: localisation (largest IoU with an object of its class from 0.1 to 0.5), classification
    (IoU of 0.5 or more with one of another class), duplicate (0.5 or more with an object found
    already), background (0.1 or less with any object), or both. Localisation and classification
    errors are fixed by making the best of those that share an object true, provided nothing
    found it, and by removing the rest; duplicate, background and both by removing them. An object
    is missed if nothing found it and no such remedy would; it is fixed by not asking for it.
    False positives are fixed by ranking them last, false negatives by not asking for any object
    that was not found.

    Matching is COCO's, and AP50 the one that evaluate_coco gives. Hence, unlike in tidecv,
    ignored detections are no errors, an image keeps 100 detections of each class, and classes
    without objects do not count. A class that a remedy leaves without objects counts as 0 if it
    has detections, else it is left out.
    """
    true, false = verdicts(table, 0, slice(None))
    counted = table.object_counts[:, 0]
    found = _found(table, true)
    kind, target = _kinds(ground_truth, detections, table, false, found)
    # Equal scores stay in the order that `match` gave them, whatever their class becomes.
    ties = np.lexsort((table.rows, ground_truth.image_ids[table.image]))
    fixed = _fixed(target, found, table.scores, ties)
    missed = counted & ~found
    missed[target[fixed]] = False

    num_classes = len(ground_truth.class_names)

    def count_objects(chosen: BoolArray) -> IntArray:
        return np.bincount(ground_truth.labels[chosen], minlength=num_classes)

    objects = count_objects(counted)
    base = _Ranking(table.labels, table.scores, true, true | false, objects, objects > 0)
    rankings = {
        **_without_false_positives(base, kind, fixed, ground_truth.labels, target),
        "missed": replace(base, num_objects=count_objects(counted & ~missed)),
        "false positives": replace(base, scores=true.astype(np.float64)),
        "false negatives": replace(base, num_objects=count_objects(found)),
    }
    value = _ap50(base, ties) if objects.any() else None
    gain = {
        name: None if value is None else _ap50(ranking, ties) - value
        for name, ranking in rankings.items()
    }
    cost = {name: gain[name] for name in ERROR_KINDS}
    counts = [*np.bincount(kind[kind >= 0], minlength=len(ERROR_KINDS) - 1), missed.sum()]
    return ErrorReport(
        AP50=value,
        cost={name: None if each is None else max(each, 0.0) for name, each in cost.items()},
        special={name: gain[name] for name in SPECIAL_KINDS},
        count={name: int(count) for name, count in zip(ERROR_KINDS, counts, strict=True)},
    )


def wrong_detections(
    ground_truth: GroundTruth, detections: Detections, table: MatchTable
) -> tuple[IntArray, IntArray]:
    """Rows (N,) of all false positives in `detections`, the highest score first, and the place
    (N,) of the kind of each in ERROR_KINDS, as `error_report` sorts them."""
    true, false = verdicts(table, 0, slice(None))
    kind, _ = _kinds(ground_truth, detections, table, false, _found(table, true))
    wrong = np.flatnonzero(kind >= 0)
    wrong = wrong[np.argsort(-table.scores[wrong], kind="stable")]
    return table.rows[wrong], kind[wrong]


def _found(table: MatchTable, true: BoolArray) -> BoolArray:
    """(G,) the objects that a true positive belongs to."""
    found = np.zeros(len(table.object_counts), bool)
    found[table.matched_object[true, 0]] = True
    return found


def _kinds(
    ground_truth: GroundTruth,
    detections: Detections,
    table: MatchTable,
    false: BoolArray,
    found: BoolArray,
) -> tuple[IntArray, IntArray]:
    """(D,) position in ERROR_KINDS or -1, and (D,) the object that a remedy would find or -1."""
    from detcli.evaluation.kernels.errors import kinds_kernel
    from detcli.jit import as_kernel_input

    result = kinds_kernel(
        as_kernel_input(detections.boxes_xywh[table.rows], np.float64),
        table.labels,
        as_kernel_input(table.image, np.int64),
        false,
        as_kernel_input(ground_truth.boxes_xywh, np.float64),
        as_kernel_input(ground_truth.labels, np.int64),
        as_kernel_input(table.object_counts[:, 0], np.bool_),
        found,
        as_kernel_input(ground_truth.offsets, np.int64),
        FOREGROUND_IOU,
        BACKGROUND_IOU,
    )
    return result[:, 0], result[:, 1]


def _fixed(target: IntArray, found: BoolArray, scores: FloatArray, ties: IntArray) -> BoolArray:
    """(D,) the best detection of each object that one could find and none has."""
    order = ties[np.argsort(-scores[ties], kind="stable")]
    order = order[target[order] >= 0]
    order = order[~found[target[order]]]
    _, first = np.unique(target[order], return_index=True)
    fixed = np.zeros(len(scores), bool)
    fixed[order[first]] = True
    return fixed


def _without_false_positives(
    base: _Ranking, kind: IntArray, fixed: BoolArray, object_labels: IntArray, target: IntArray
) -> dict[str, _Ranking]:
    """Kind of false positive -> the ranking in which those that can be fixed are true, with the
    class of their object, and the others of that kind are gone."""
    rankings = {}
    for number, name in enumerate(ERROR_KINDS[:-1]):
        true = fixed & (kind == number)
        labels = base.labels.copy()
        labels[true] = object_labels[target[true]]
        shown = base.shown & ((kind != number) | true)
        rankings[name] = replace(base, labels=labels, true=base.true | true, shown=shown)
    return rankings


def _ap50(ranking: _Ranking, ties: IntArray) -> float:
    """Mean over classes, as the docstring of error_report says; 1 if all are left out."""
    from detcli.evaluation.kernels.match import average_precision

    rows = ties[ranking.shown[ties]]
    rows = rows[np.lexsort((-ranking.scores[rows], ranking.labels[rows]))]
    num_classes = len(ranking.num_objects)
    offsets = offsets_by_label(ranking.labels[rows], num_classes)
    true = ranking.true[rows].astype(np.uint16)
    values = average_precision(
        offsets, true, np.zeros_like(true), ranking.num_objects, RECALL_THRESHOLDS, 1
    )[:, 0]
    lost = np.isnan(values) & (np.diff(offsets) > 0)
    values = np.where(lost, 0.0, values)[ranking.asked]
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else 1.0
