"""Candidate tables for the tests of suppression: from corners, and random crowded ones; and
suppression with the defaults that a recipe has."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from detcli import postprocess
from detcli.recipe.sections.postprocess import SECTIONS
from detcli.types import Detections

COMMON = {"iou_threshold", "class_agnostic"}  # what almost all methods have


def suppress(candidates: Detections, *, method: str, weights=None, **options) -> Detections:
    """As detcli's, with the defaults of the method's section; COMMON only if the method has it."""
    fields = SECTIONS[method].model_fields
    defaults = {key: field.default for key, field in fields.items() if key != "method"}
    given = {key: options[key] for key in options if key in fields or key not in COMMON}
    return postprocess.suppress(candidates, method=method, weights=weights, **{**defaults, **given})


def detections_from_xyxy(counts, xyxy, scores, labels, **extra) -> Detections:
    """float32 corners as the engine hands them over: xywh in float64."""
    corners = np.asarray(xyxy, np.float32).reshape(-1, 4).astype(np.float64)
    return Detections(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xywh=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1),
        scores=np.asarray(scores, np.float32).astype(np.float64),
        labels=np.asarray(labels, np.int64),
        extra=extra,
    )


def crowded(seed, counts, *, num_classes=3, num_places=4, size=600.0, ties=False, flat=0.0):
    """Boxes scattered around a few places of a square image, as detectors give them.

    counts: boxes of each image; ties: only a few different scores and boxes; flat: share of
    boxes without an area. Every column that any method needs is there.
    """
    rng = np.random.default_rng(seed)
    n = sum(counts)
    places = rng.uniform(0.1, 0.6, (num_places, 2)) * size
    lengths = rng.uniform(0.1, 0.3, (num_places, 2)) * size
    of = rng.integers(0, num_places, n)
    low = places[of] + rng.normal(0, 0.02, (n, 2)) * size
    high = low + lengths[of] * rng.uniform(0.7, 1.3, (n, 2))
    xyxy = np.concatenate([low, high], 1).clip(0, size)
    scores = rng.uniform(0.001, 1, n)
    if ties:
        xyxy, scores = np.round(xyxy / 40) * 40, np.ceil(scores * 4) / 4
    stretched = rng.random(n) >= flat
    xyxy[:, 2] = np.where(stretched, xyxy[:, 2], xyxy[:, 0])
    return Detections(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xywh=np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1),
        scores=scores,
        labels=rng.integers(0, num_classes, n),
        extra={
            "iou": np.round(rng.random(n), 1) if ties else rng.random(n),
            "sigma": rng.uniform(0.5, 20, (n, 4)),
            "density": rng.uniform(0, 0.8, n),
            "number": np.arange(float(n)),
        },
    )


@st.composite
def crowded_tables(draw, ties=None):
    """Tables of up to four images, some empty, some with a crowd."""
    counts = draw(st.lists(st.sampled_from([0, 1, 2, 7, 25, 60]), min_size=1, max_size=4))
    return crowded(
        draw(st.integers(0, 2**32 - 1)),
        counts,
        num_classes=draw(st.sampled_from([1, 3])),
        num_places=draw(st.sampled_from([1, 4])),
        ties=draw(st.booleans()) if ties is None else ties,
        flat=draw(st.sampled_from([0.0, 0.2])),
    )
