"""Cross-check of our metrics with pycocotools: the second opinion behind `eval --verify`."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np

from detcli.evaluation.coco import METRIC_NAMES, evaluate_coco

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from detcli.types import Detections, GroundTruth

# pycocotools knows no difficult objects, but an area outside of every range has the same effect.
_AREA_OUTSIDE_PX2 = 1e11


def verify_with_pycocotools(
    ground_truth: GroundTruth, detections: Detections
) -> dict[str, float | None]:
    """The twelve numbers by pycocotools, and `largest_difference` from `evaluate_coco`'s.

    None where pycocotools says -1. The largest difference is infinite where one side has a
    figure and the other has none. Takes about half a minute and 2 GB per 500,000 detections.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):
        truth, results = COCO(), COCO()
        truth.dataset = _ground_truth_dict(ground_truth)
        truth.createIndex()
        results.dataset = {
            **truth.dataset,
            "annotations": _detection_list(ground_truth, detections),
        }
        results.createIndex()
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    theirs = {
        name: None if value == -1 else float(value)
        for name, value in zip(METRIC_NAMES, evaluation.stats, strict=True)
    }
    ours = evaluate_coco(ground_truth, detections).metrics
    largest = max(_difference(ours[name], theirs[name]) for name in METRIC_NAMES)
    return {**theirs, "largest_difference": largest}


def _difference(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    return abs(a - b)


def _ground_truth_dict(ground_truth: GroundTruth) -> dict[str, Any]:
    excused = ground_truth.difficult & ~ground_truth.crowd
    columns = {
        "area": np.where(excused, _AREA_OUTSIDE_PX2, ground_truth.area),
        "iscrowd": ground_truth.crowd.astype(int),
    }
    return {
        "images": [{"id": image_id} for image_id in ground_truth.image_ids.tolist()],
        "categories": [{"id": category} for category in ground_truth.category_ids],
        "annotations": _entries(ground_truth, ground_truth, columns),
    }


def _detection_list(ground_truth: GroundTruth, detections: Detections) -> list[dict[str, Any]]:
    """Result entries with the keys that pycocotools' own loader adds (it fails on no entries)."""
    columns = {
        "score": detections.scores,
        "area": detections.boxes_xywh[:, 2:].prod(axis=1),
        "iscrowd": np.zeros(len(detections.scores), np.int64),
    }
    return _entries(ground_truth, detections, columns)


def _entries(
    ground_truth: GroundTruth, table: GroundTruth | Detections, further: Mapping[str, NDArray[Any]]
) -> list[dict[str, Any]]:
    """A dictionary per box of `table`, with these further columns. Ids start at 1: pycocotools
    takes an object of id 0 for unmatched."""
    columns = {
        "image_id": ground_truth.image_ids[table.image_index],
        "category_id": np.asarray(ground_truth.category_ids, np.int64)[table.labels],
        "bbox": table.boxes_xywh,
        **further,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"id": n, **dict(zip(columns, row, strict=True))} for n, row in enumerate(rows, 1)]
