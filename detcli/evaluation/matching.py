"""Detections matched to objects once; every metric is read off the resulting table.

Matching follows COCO (cocoapi's COCOeval, 2014): per image and class, detections in order of
score each take the free object of largest IoU, at ten IoU thresholds and in four area ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcli.errors import DataError
from detcli.types import offsets_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import BoolArray, Detections, FloatArray, GroundTruth, IntArray

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_NAMES = ("all", "small", "medium", "large")
AREA_RANGES_PX2 = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
MAX_PER_IMAGE = 100


@dataclass(frozen=True)
class MatchTable:
    """What became of each detection, sorted by (class, score descending, image id, input order).

    D detections (at most 100 per image and class), K classes, G objects, T IoU thresholds,
    A area ranges. class k owns entries class_offsets[k]:class_offsets[k + 1] of every column.

    rows (D,): row in the Detections; scores (D,); image (D,): index of its image; rank (D,):
    number of earlier detections of the same image and class.
    true_positive, ignored (D, A) uint16: bit t is set where the detection found a counted object
    at IoU threshold t, or counts neither for nor against the detector. Neither bit: a false
    positive.
    matched_object (D, T) int32: row in the GroundTruth of the object taken in area range "all",
    or -1.
    object_counts (G, A) bool: the object must be found in that area range.
    """

    class_offsets: IntArray
    rows: IntArray
    scores: FloatArray
    image: IntArray
    rank: IntArray
    true_positive: NDArray[np.uint16]
    ignored: NDArray[np.uint16]
    matched_object: NDArray[np.int32]
    object_counts: BoolArray

    @property
    def labels(self) -> IntArray:
        """(D,) the class of each entry."""
        return np.repeat(np.arange(len(self.class_offsets) - 1), np.diff(self.class_offsets))


def match(ground_truth: GroundTruth, detections: Detections) -> MatchTable:
    """Match detections to the objects of the same image and class.

    A crowd region takes any number of detections and ignores them; a difficult object, and one
    outside the area range, takes one detection and ignores it; counted objects come first.
    Images of both tables correspond by position. Raises DataError on a number of images or
    labels that do not fit, on scores or boxes that are not finite, and on repeated class names.
    """
    check_tables(ground_truth, detections)
    from detcli.evaluation.kernels.match import match_kernel, objects_of, rank_in_image
    from detcli.jit import as_kernel_input

    num_classes, num_images = len(ground_truth.class_names), ground_truth.num_images
    rows, image = sorted_rows(ground_truth, detections)
    class_offsets = offsets_by_label(detections.labels[rows], num_classes)
    rank = rank_in_image(class_offsets, image, num_images)
    if len(rank) and rank.max() >= MAX_PER_IMAGE:
        kept = rank < MAX_PER_IMAGE
        rows, image, rank = rows[kept], image[kept], rank[kept]
        class_offsets = offsets_by_label(detections.labels[rows], num_classes)

    objects = np.lexsort((ground_truth.image_index, ground_truth.labels))
    object_class_offsets = offsets_by_label(ground_truth.labels, num_classes)
    object_image = ground_truth.image_index[objects]
    excused = (ground_truth.crowd | ground_truth.difficult)[:, None]
    object_ignored = excused | _outside(ground_truth.area)
    boxes = as_kernel_input(detections.boxes_xywh[rows], np.float64)
    shape = (len(rows), len(AREA_NAMES))
    true_positive, ignored = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
    matched_object = np.full((len(rows), len(IOU_THRESHOLDS)), -1, np.int32)
    match_kernel(
        boxes,
        _outside(boxes[:, 2] * boxes[:, 3]),
        objects_of(class_offsets, image, object_class_offsets, object_image, num_images),
        as_kernel_input(ground_truth.boxes_xywh[objects], np.float64),
        ground_truth.crowd[objects],
        as_kernel_input(object_ignored[objects].T, np.bool_),
        IOU_THRESHOLDS,
        true_positive,
        ignored,
        matched_object,
    )
    found = matched_object >= 0
    matched_object[found] = objects[matched_object[found]]
    return MatchTable(
        class_offsets=class_offsets,
        rows=rows,
        scores=detections.scores[rows],
        image=image,
        rank=rank,
        true_positive=true_positive,
        ignored=ignored,
        matched_object=matched_object,
        object_counts=~object_ignored,
    )


def sorted_rows(ground_truth: GroundTruth, detections: Detections) -> tuple[IntArray, IntArray]:
    """Rows by (class, score descending, image id, input order), and the image of each."""
    from detcli.jit import descending_order

    image = detections.image_index
    by_image = np.arange(len(image))
    if (np.diff(ground_truth.image_ids) < 0).any():
        position = np.empty(ground_truth.num_images, np.int64)
        position[np.argsort(ground_truth.image_ids)] = np.arange(ground_truth.num_images)
        by_image = np.argsort(position[image], kind="stable")
    everything = np.array([0, len(image)])
    by_score = by_image[descending_order(detections.scores[by_image], everything)]
    # NumPy sorts 16-bit integers by counting.
    short = np.uint16 if len(ground_truth.class_names) <= np.iinfo(np.uint16).max else np.int64
    by_class = np.argsort(detections.labels[by_score].astype(short), kind="stable")
    rows = by_score[by_class]
    return rows, image[rows]


def offsets_by_label(labels: IntArray, num_classes: int) -> IntArray:
    """(K + 1,) where each class begins among rows sorted by label."""
    return offsets_of(np.bincount(labels, minlength=num_classes))


def _outside(area: FloatArray) -> BoolArray:
    """(N, A) whether areas lie outside of each range; both ends of a range belong to it."""
    low, high = AREA_RANGES_PX2.T
    return np.asarray((area[:, None] < low) | (area[:, None] > high))


def check_tables(ground_truth: GroundTruth, detections: Detections) -> None:
    """Raise DataError on what `match` says it refuses."""
    if detections.num_images != ground_truth.num_images:
        raise DataError(
            f"detections of {detections.num_images} images cannot be evaluated against ground "
            f"truth of {ground_truth.num_images} images"
        )
    num_classes = len(ground_truth.class_names)
    if len(set(ground_truth.class_names)) != num_classes:
        names = ground_truth.class_names
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"class names must differ; repeated: {', '.join(repeated)}")
    for what, labels in (("ground truth", ground_truth.labels), ("detection", detections.labels)):
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise DataError(f"{what} label {wrong}: expected 0 to {num_classes - 1}")
    finite = np.isfinite(detections.scores) & np.isfinite(detections.boxes_xywh).all(1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        image_id = ground_truth.image_ids[detections.image_index[row]]
        raise DataError(
            f"{(~finite).sum()} of {len(finite)} detections have a score or box that is not "
            f"finite; first: image id {image_id}, score {detections.scores[row]}, "
            f"box {detections.boxes_xywh[row].tolist()}"
        )
