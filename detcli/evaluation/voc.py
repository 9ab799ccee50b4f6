"""Pascal VOC's average precision, by its own matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcli.errors import UsageError
from detcli.evaluation.matching import check_tables, offsets_by_label, sorted_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import Detections, FloatArray, GroundTruth, IntArray

ELEVEN_RECALLS = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True)
class VocMetrics:
    """Result of an evaluation. None stands for a figure that no counted object defines.

    mAP: 0..1; per_class: class name -> AP, `objects` that must be found, `detections` given.
    """

    mAP: float | None
    per_class: dict[str, dict[str, float | int | None]]
    images: int
    detections: int
    iou_threshold: float
    eleven_point: bool


def evaluate_voc(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    iou_threshold: float = 0.5,
    eleven_point: bool = False,
    inclusive_corners: bool = False,
) -> VocMetrics:
    """Evaluate detections as the Pascal VOC development kit does (VOCevaldet).

    Each detection, in order of score, is compared with the one object of its class that it
    overlaps most, whatever became of that object: a second detection of an object is a false
    positive even where another object is free. Detections of difficult objects and of crowd
    regions count neither way. Every detection counts; there is no limit per image.

    iou_threshold in (0, 1], itself included; eleven_point: mean precision at recalls 0, 0.1 ...
    1, as VOC did up to 2009, instead of the area under the interpolated curve;
    inclusive_corners: a box ends with its last pixel, so that lengths are one pixel more than
    the difference of the corners (detcli's own reader of VOC files has added it already).

    Raises UsageError on a threshold out of range, DataError as `match` does.
    """
    if not 0.0 < iou_threshold <= 1.0:
        raise UsageError(f"voc: expected an IoU threshold above 0 and up to 1, got {iou_threshold}")
    check_tables(ground_truth, detections)
    class_offsets, verdict = _match(ground_truth, detections, iou_threshold, inclusive_corners)
    excused = ground_truth.crowd | ground_truth.difficult
    names = ground_truth.class_names
    num_objects = np.bincount(ground_truth.labels[~excused], minlength=len(names))
    per_class: dict[str, dict[str, float | int | None]] = {}
    for label, name in enumerate(names):
        first, last = class_offsets[label : label + 2]
        ap = _average_precision(verdict[first:last], num_objects[label], eleven_point)
        per_class[name] = {
            "AP": ap,
            "objects": int(num_objects[label]),
            "detections": int(last - first),
        }
    defined = [row["AP"] for row in per_class.values() if row["AP"] is not None]
    return VocMetrics(
        mAP=float(np.mean(defined)) if defined else None,
        per_class=per_class,
        images=ground_truth.num_images,
        detections=len(detections.scores),
        iou_threshold=iou_threshold,
        eleven_point=eleven_point,
    )


def _match(
    ground_truth: GroundTruth, detections: Detections, iou_threshold: float, inclusive_corners: bool
) -> tuple[IntArray, NDArray[np.int8]]:
    """Class offsets (K + 1,), and (D,) 1, 0 or -1 as in the kernel, by (class, score)."""
    from detcli.evaluation.kernels.match import objects_of
    from detcli.evaluation.kernels.voc import voc_match_kernel
    from detcli.jit import as_kernel_input

    num_classes, num_images = len(ground_truth.class_names), ground_truth.num_images
    rows, image = sorted_rows(ground_truth, detections)
    class_offsets = offsets_by_label(detections.labels, num_classes)
    objects = np.lexsort((ground_truth.image_index, ground_truth.labels))
    verdict = voc_match_kernel(
        as_kernel_input(detections.boxes_xywh[rows], np.float64),
        objects_of(
            class_offsets,
            image,
            offsets_by_label(ground_truth.labels, num_classes),
            ground_truth.image_index[objects],
            num_images,
        ),
        as_kernel_input(ground_truth.boxes_xywh[objects], np.float64),
        (ground_truth.crowd | ground_truth.difficult)[objects],
        iou_threshold,
        1.0 if inclusive_corners else 0.0,
    )
    return class_offsets, verdict


def _average_precision(
    verdict: NDArray[np.int8], num_objects: int, eleven_point: bool
) -> float | None:
    """Of one class, from the verdicts in order of score."""
    if num_objects == 0:
        return None
    found, false = np.cumsum(verdict == 1), np.cumsum(verdict == 0)
    recall = found / num_objects
    precision = found / np.maximum(found + false, 1)
    # From here on: the best precision at that recall or a higher one.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_point:
        return float(np.mean(_precision_at(ELEVEN_RECALLS, recall, precision)))
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _precision_at(wanted: FloatArray, recall: FloatArray, precision: FloatArray) -> FloatArray:
    """Interpolated precision where a recall is first reached; 0 where it never is."""
    return np.append(precision, 0.0)[np.searchsorted(recall, wanted)]
