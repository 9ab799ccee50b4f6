"""A detector as it is used: what it finds, and wrongly finds, from one score on.

Letters: S systems, D detections, I images, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from detcli.errors import UsageError
from detcli.evaluation.bootstrap import CHUNK, Bootstrap, draw_images, summarise
from detcli.evaluation.curves import verdicts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.evaluation.matching import MatchTable
    from detcli.types import FloatArray, GroundTruth, IntArray

OPERATING_METRICS = ("false_positives_per_image", "recall", "precision")
_IOU = 0  # position of 0.5 in matching.IOU_THRESHOLDS


def operating_points(
    ground_truth: GroundTruth,
    tables: Sequence[MatchTable],
    *,
    scores: Sequence[float],
    baseline: int = 0,
    resamples: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """False positives per image, recall and precision of the detections from a score on, at IoU
    0.5 and over all classes together, with paired bootstrap intervals over images.

    tables: one per system, from `match` with this ground truth; scores: that of each. Ignored
    detections count for nothing. Recall is not defined without objects, precision not without
    detections. The seed draws the images that it draws in `bootstrap`. Raises UsageError without a
    system, an image or a resample, and on a score outside of 0..1.
    """
    images = ground_truth.num_images
    if not tables or images == 0 or resamples < 1 or not all(0 <= each <= 1 for each in scores):
        raise UsageError(
            "operating point: expected a system, an image, a resample and scores in 0..1, got "
            f"{len(tables)} systems, {images} images, {resamples} resamples, scores {list(scores)}"
        )
    pairs = zip(tables, scores, strict=True)
    counts = np.stack([_counts(ground_truth, table, score) for table, score in pairs])  # (S, 3, I)
    chunks = np.random.SeedSequence(seed).spawn(-(-resamples // CHUNK))
    drawn = np.concatenate([draw_images(images, chunk) for chunk in chunks])[:resamples]
    point = _figures(counts, np.ones((1, images), np.int32))[..., 0]
    return summarise(
        point, _figures(counts, drawn), OPERATING_METRICS, baseline=baseline, seed=seed
    )


def _counts(ground_truth: GroundTruth, table: MatchTable, score: float) -> IntArray:
    """(3, I) true positives, false positives and objects of each image."""
    true, false = verdicts(table, _IOU, slice(None))
    shown = table.scores >= score
    images = (
        table.image[true & shown],
        table.image[false & shown],
        ground_truth.image_index[table.object_counts[:, 0]],
    )
    return np.stack([np.bincount(rows, minlength=ground_truth.num_images) for rows in images])


def _figures(counts: IntArray, drawn: NDArray[np.int32]) -> FloatArray:
    """(S, 3, R) OPERATING_METRICS where image i stands drawn[r, i] times."""
    totals = counts @ drawn.T.astype(np.int64)
    true, false, objects = totals[:, 0], totals[:, 1], totals[:, 2]
    shown = true + false
    return np.stack(
        [
            false / drawn.sum(axis=1),
            np.where(objects > 0, true / np.maximum(objects, 1), np.nan),
            np.where(shown > 0, true / np.maximum(shown, 1), np.nan),
        ],
        axis=1,
    )


def best_score(table: MatchTable) -> float:
    """The score from which on detections have the largest F1, at IoU 0.5 and over all classes
    together; the highest of several. Raises UsageError where no object is found at all.

    F1 = 2 TP / (2 TP + FP + FN).
    """
    scores, shown, found = _cuts(table)
    if not len(scores) or found[-1] == 0:
        raise UsageError("best score: no detection matches an object; give a score")
    f1 = 2 * found / (shown + int(table.object_counts[:, 0].sum()))
    return float(scores[f1.argmax()])


def score_at_recall(table: MatchTable, recall: float) -> float:
    """The highest score from which on a share `recall` of the objects is found, at IoU 0.5 and
    over all classes together. Raises UsageError where fewer are found from any score on."""
    scores, _, found = _cuts(table)
    objects = int(table.object_counts[:, 0].sum())
    enough = np.flatnonzero(found >= recall * objects)
    if not len(enough):
        most = f"{found[-1] / objects:.3f}" if len(found) and objects else "0"
        raise UsageError(f"recall {recall:g}: the detections reach {most} at most")
    return float(scores[enough[0]])


def _cuts(table: MatchTable) -> tuple[FloatArray, IntArray, IntArray]:
    """The different scores from the highest on, how many detections have each or a higher one, and
    how many of these are true."""
    true, false = verdicts(table, _IOU, slice(None))
    kept = true | false
    order = np.argsort(-table.scores[kept], kind="stable")
    scores = table.scores[kept][order]
    found = np.cumsum(true[kept][order], dtype=np.int64)
    # A cut cannot part equal scores: only the last of each counts.
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, np.ones(min(1, len(scores)), bool)))
    return scores[ends], np.asarray(ends + 1, np.int64), found[ends]
