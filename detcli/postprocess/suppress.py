"""The table of suppression and fusion methods, and the one function that applies them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from detcli.errors import DataError, UsageError
from detcli.postprocess.adaptive import adaptive
from detcli.postprocess.columns import NEEDED, needed_column
from detcli.postprocess.ensemble import MODEL, model_weights, weighted_scores
from detcli.postprocess.iou_guided import iou_guided
from detcli.postprocess.matrix import matrix
from detcli.postprocess.nms import diou, nms
from detcli.postprocess.none import none
from detcli.postprocess.options import check_value, did_you_mean, own_defaults
from detcli.postprocess.soft import soft
from detcli.postprocess.softer import softer
from detcli.postprocess.wbf import wbf
from detcli.postprocess.weighted import nmw, weighted
from detcli.types import Detections


class Method(Protocol):
    """Candidates of a whole data set in, detections out.

    The result is ordered by image, then (score descending, input order), and holds at most
    `max_per_image` rows of each image, over all classes. Candidates are not changed. A method
    may have further keywords, each with a default and a range in options.py.
    """

    def __call__(
        self,
        candidates: Detections,
        *,
        iou_threshold: float = ...,
        class_agnostic: bool = ...,
        max_per_image: int = ...,
    ) -> Detections: ...


METHODS: dict[str, Method] = {
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


def method_options(method: str) -> dict[str, Any]:
    """Option -> default of a method, `weights`, which every method takes, included.

    Raises UsageError on an unknown method.
    """
    if method not in METHODS:
        raise UsageError(
            f"postprocess.method: {method!r} is unknown; it must be one of "
            f"{', '.join(METHODS)}{did_you_mean(method, METHODS)}"
        )
    return {**own_defaults(METHODS[method]), "weights": None}


def check_method(method: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError on an unknown method, an option it lacks, or a value out of range.

    None is fine everywhere: it stands for the default.
    """
    allowed = method_options(method)
    for name, value in options.items():
        if name not in allowed:
            raise UsageError(
                f"method {method!r} has no option {name!r}; its options are "
                f"{', '.join(allowed)}{did_you_mean(name, allowed)}"
            )
        if value is not None:
            check_value(method, METHODS[method], name, value)


def suppress(detections: Detections, *, method: str, **options: Any) -> Detections:
    """Suppress or fuse duplicates among candidates, each image by itself.

    options: those of the method (`method_options`); what is left out or None has its default.
    iou_threshold in [0, 1]; class_agnostic lets a box act on boxes of other classes;
    max_per_image >= 1 keeps the highest scores over all classes. Ties in score go to the
    candidate that comes first. weights: one per model of an ensemble (`join_models`); wbf and nmw
    have their own rule for them, for other methods scores are multiplied by weight / sum of
    weights first.
    Raises UsageError as `check_method` does, DataError on boxes or scores that are not finite
    and on candidates without a column that the method needs.
    """
    options = {name: value for name, value in options.items() if value is not None}
    check_method(method, options)
    _check_finite(detections)
    if method in NEEDED:
        needed_column(detections, method)
    if MODEL in detections.extra or "weights" in options:
        # Here, because a block need not have a box of every model.
        given = options.pop("weights", None)
        per_model = model_weights(detections, given)
        if "weights" in own_defaults(METHODS[method]):
            options["weights"] = per_model.tolist()
        elif given is not None:
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
        yield Detections(
            offsets=offsets[first : last + 1] - offsets[first],
            boxes_xywh=detections.boxes_xywh[rows],
            scores=detections.scores[rows],
            labels=detections.labels[rows],
            extra={name: column[rows] for name, column in detections.extra.items()},
        )


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
