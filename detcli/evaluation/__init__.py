"""Detections against ground truth: matching, the metrics of COCO and VOC, intervals, kinds of
errors, curves, and predictions files.

Never imports torch; numba is imported when something is evaluated, not before.
"""

from detcli.evaluation.bootstrap import Bootstrap, Difference, Estimate, bootstrap, mean_difference
from detcli.evaluation.calibration import Calibration, calibration
from detcli.evaluation.coco import METRIC_NAMES, CocoMetrics, coco_metrics, evaluate_coco
from detcli.evaluation.confusion import ConfusionMatrix, confusion_matrix
from detcli.evaluation.curves import Curves, precision_recall
from detcli.evaluation.errors import (
    ERROR_KINDS,
    SPECIAL_KINDS,
    ErrorReport,
    error_report,
    wrong_detections,
)
from detcli.evaluation.matching import MatchTable, match
from detcli.evaluation.operating_point import (
    OPERATING_METRICS,
    best_score,
    operating_points,
    score_at_recall,
)
from detcli.evaluation.verify import verify_with_pycocotools
from detcli.evaluation.voc import VocMetrics, evaluate_voc

__all__ = [
    "ERROR_KINDS",
    "METRIC_NAMES",
    "OPERATING_METRICS",
    "SPECIAL_KINDS",
    "Bootstrap",
    "Calibration",
    "CocoMetrics",
    "ConfusionMatrix",
    "Curves",
    "Difference",
    "ErrorReport",
    "Estimate",
    "MatchTable",
    "VocMetrics",
    "best_score",
    "bootstrap",
    "calibration",
    "coco_metrics",
    "confusion_matrix",
    "error_report",
    "evaluate_coco",
    "evaluate_voc",
    "match",
    "mean_difference",
    "operating_points",
    "precision_recall",
    "score_at_recall",
    "verify_with_pycocotools",
    "wrong_detections",
]
