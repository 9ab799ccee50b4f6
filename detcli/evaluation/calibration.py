"""Whether scores mean what they say: precision against score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcli.errors import DataError, UsageError
from detcli.evaluation.curves import threshold_position, verdicts

if TYPE_CHECKING:
    from detcli.evaluation.matching import MatchTable
    from detcli.types import BoolArray, FloatArray, GroundTruth, IntArray


@dataclass(frozen=True)
class Calibration:
    """Reliability of scores over B bins of equal width.

    edges (B + 1,); count (B,) detections; precision, mean_score (B,), NaN in an empty bin;
    error: the expected calibration error, 0..1, None without detections; class_errors: the same
    by class name.
    """

    iou_threshold: float
    edges: FloatArray
    count: IntArray
    precision: FloatArray
    mean_score: FloatArray
    error: float | None
    class_errors: dict[str, float | None]


def calibration(
    ground_truth: GroundTruth, table: MatchTable, *, iou_threshold: float = 0.5, bins: int = 10
) -> Calibration:
    """Compare scores with precision, over a table that `match` made of this ground truth.

    A bin holds low <= score < high, the last one also score 1; ignored detections are left out.
    error = sum over bins of count / total * |precision - mean score|: D-ECE on the score alone
    (Küppers et al., "Multivariate Confidence Calibration for Object Detection", CVPR Workshops
    2020). Raises UsageError on an IoU threshold that is not one of COCO's ten or on
    fewer than one bin, DataError on scores outside of 0 to 1.
    """
    if bins < 1:
        raise UsageError(f"calibration: expected at least 1 bin, got {bins}")
    position = threshold_position(iou_threshold)
    if len(table.scores) and not 0.0 <= table.scores.min() <= table.scores.max() <= 1.0:
        raise DataError(
            f"calibration: expected scores from 0 to 1, got {table.scores.min():g} to "
            f"{table.scores.max():g}; only probabilities can be calibrated"
        )
    true, false = verdicts(table, position, slice(None))
    edges = np.linspace(0.0, 1.0, bins + 1)
    inside = np.minimum(np.searchsorted(edges, table.scores, side="right") - 1, bins - 1)

    def measure(rows: BoolArray) -> tuple[IntArray, FloatArray, FloatArray, float | None]:
        return _reliability(inside[rows], true[rows], table.scores[rows], bins)

    counts = true | false
    count, precision, mean_score, error = measure(counts)
    return Calibration(
        iou_threshold=iou_threshold,
        edges=edges,
        count=count,
        precision=precision,
        mean_score=mean_score,
        error=error,
        class_errors={
            name: measure(counts & (table.labels == label))[-1]
            for label, name in enumerate(ground_truth.class_names)
        },
    )


def _reliability(
    inside: IntArray, true: BoolArray, scores: FloatArray, bins: int
) -> tuple[IntArray, FloatArray, FloatArray, float | None]:
    """Count, precision and mean score of each bin, and the expected calibration error."""
    count = np.bincount(inside, minlength=bins)
    divisor = np.where(count > 0, count, np.nan)
    precision = np.bincount(inside, true, bins) / divisor
    mean_score = np.bincount(inside, scores, bins) / divisor
    if not len(scores):
        return count, precision, mean_score, None
    error = np.nansum(count * np.abs(precision - mean_score)) / len(scores)
    return count, precision, mean_score, float(error)
