"""Predictions on disk: files of boxes and what belongs to them. Never imports torch."""

from detcli.predictions.files import (
    PredictionsMeta,
    check_not_thresholded,
    read_meta,
    read_predictions,
    write_predictions,
)

__all__ = [
    "PredictionsMeta",
    "check_not_thresholded",
    "read_meta",
    "read_predictions",
    "write_predictions",
]
