"""The table of suppression and fusion methods, and the one function that applies them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np

from detcli.errors import DataError
from detcli.postprocess.adaptive import adaptive
from detcli.postprocess.ensemble import MODEL, model_weights, weighted_scores
from detcli.postprocess.iou_guided import iou_guided
from detcli.postprocess.matrix import matrix
from detcli.postprocess.nms import diou, nms
from detcli.postprocess.none import none
from detcli.postprocess.soft import soft
from detcli.postprocess.softer import softer
from detcli.postprocess.wbf import wbf
from detcli.postprocess.weighted import nmw, weighted
from detcli.types import Detections

# Each takes candidates of a whole data set and, as keywords, the options that its section in the
# recipe has (recipe/sections/postprocess.py). The result is ordered by image, then (score
# descending, input order), and holds at most `max_per_image` rows of each image, over all classes.
# Candidates are not changed.
METHODS: dict[str, Callable[..., Detections]] = {
    "nms": nms,
    "soft": soft,
    "diou": diou,
    "weighted": weighted,
    "wbf": wbf,
    "nmw": nmw,
    "matrix": matrix,
    "iou_guided": iou_guided,
    "softer": softer,
    "adaptive": adaptive,
    "none": none,
}


# Boxes that are worked on at a time: what a method makes of them then stays in the CPU's
# cache, which is a fifth faster than the whole set at once and takes little memory.
_BLOCK_SIZE = 50_000


def fuses(method: str) -> bool:
    """Whether a method is made to fuse the final boxes of several models: it has its own rule for
    their weights."""
    return "weights" in signature(METHODS[method]).parameters


def suppress(
    detections: Detections, *, method: str, weights: Sequence[float] | None = None, **options: Any
) -> Detections:
    """Suppress or fuse duplicates among candidates, each image by itself.

    options: all those of the method; class_agnostic lets a box act on boxes of other classes;
    max_per_image keeps the highest scores over all classes. Ties in score go to the candidate that
    comes first. weights: one per model of an ensemble (`join_models`); methods that fuse have their
    own rule for them, for others scores are multiplied by weight / sum of weights first.
    Raises UsageError on weights that do not fit, DataError on boxes or scores that are not finite.
    """
    _check_finite(detections)
    if MODEL in detections.extra or weights is not None:
        # Here, because a block need not have a box of every model.
        per_model = model_weights(detections, weights)
        if fuses(method):
            options["weights"] = per_model.tolist()
        elif weights is not None:
            scores = weighted_scores(detections, per_model / per_model.sum())
            detections = replace(detections, scores=scores)
    return Detections.join(
        [METHODS[method](block, **options) for block in _blocks(detections, _BLOCK_SIZE)]
    )


def _blocks(detections: Detections, size: int) -> Iterator[Detections]:
    """Consecutive images of about `size` boxes in all, at least one block."""
    offsets, num_images = detections.offsets, detections.num_images
    starts = [0]
    while starts[-1] < num_images:
        full = int(np.searchsorted(offsets, offsets[starts[-1]] + size, side="right")) - 1
        starts.append(min(max(full, starts[-1] + 1), num_images))
    for first, last in zip(starts, starts[1:] or [0], strict=False):
        rows = slice(offsets[first], offsets[last])
        yield detections.regrouped(rows, offsets[first : last + 1] - offsets[first])


def _check_finite(detections: Detections) -> None:
    for what, values in (("score", detections.scores), ("box", detections.boxes_xywh)):
        fine = np.isfinite(values)
        if fine.all():
            continue
        broken = np.flatnonzero(~fine.reshape(len(values), -1).all(axis=1))
        image = int(detections.image_index[broken[0]])
        raise DataError(
            f"{len(broken)} of {len(values)} candidates have a {what} that is not "
            f"finite (first: {values[broken[0]].tolist()}, in image number {image}); "
            "the model that wrote them has diverged"
        )
