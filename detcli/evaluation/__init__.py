"""Detections against ground truth: matching, COCO's numbers, predictions files.

Never imports torch; numba is imported when something is evaluated, not before.
"""

from detcli.evaluation.coco import METRIC_NAMES, CocoMetrics, coco_metrics, evaluate_coco
from detcli.evaluation.files import (
    PredictionsMeta,
    check_not_thresholded,
    read_meta,
    read_predictions,
    write_predictions,
)
from detcli.evaluation.matching import MatchTable, match
from detcli.evaluation.verify import verify_with_pycocotools

__all__ = [
    "METRIC_NAMES",
    "CocoMetrics",
    "MatchTable",
    "PredictionsMeta",
    "check_not_thresholded",
    "coco_metrics",
    "evaluate_coco",
    "match",
    "read_meta",
    "read_predictions",
    "verify_with_pycocotools",
    "write_predictions",
]
