"""The table of suppression methods, and the one function that applies them."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from detcli.errors import DataError, UsageError
from detcli.postprocess.nms import nms
from detcli.types import Detections


class Method(Protocol):
    """Candidates of a whole data set in, detections out.

    The result is ordered by image, then (score descending, input order), and holds at most
    `max_per_image` rows of each image, over all classes. Candidates are not changed.
    """

    def __call__(
        self,
        candidates: Detections,
        *,
        iou_threshold: float,
        class_agnostic: bool,
        max_per_image: int,
    ) -> Detections: ...


METHODS: dict[str, Method] = {"nms": nms}


def suppress(
    detections: Detections,
    *,
    method: str,
    iou_threshold: float,
    class_agnostic: bool,
    max_per_image: int,
) -> Detections:
    """Suppress duplicates among candidates, each image by itself.

    iou_threshold in [0, 1]; class_agnostic lets a box suppress boxes of other classes;
    max_per_image >= 1 keeps the highest scores over all classes. Ties in score go to the
    candidate that comes first.
    Raises UsageError on an unknown method or an argument out of range, DataError on scores
    that are not finite.
    """
    if method not in METHODS:
        raise UsageError(
            f"postprocess.method: {method!r} is unknown; it must be one of {', '.join(METHODS)}"
        )
    if not 0.0 <= iou_threshold <= 1.0:
        raise UsageError(f"postprocess.iou_threshold: expected 0 to 1, got {iou_threshold}")
    if max_per_image < 1:
        raise UsageError(f"postprocess.max_per_image: expected at least 1, got {max_per_image}")
    broken = np.flatnonzero(~np.isfinite(detections.scores))
    if len(broken):
        image = int(detections.image_index[broken[0]])
        raise DataError(
            f"{len(broken)} of {len(detections.scores)} candidates have a score that is not "
            f"finite (first: {detections.scores[broken[0]]}, in image number {image}); "
            "the model that wrote them has diverged"
        )
    return METHODS[method](
        detections,
        iou_threshold=iou_threshold,
        class_agnostic=class_agnostic,
        max_per_image=max_per_image,
    )
