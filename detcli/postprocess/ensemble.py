"""Candidates of several models for the same images, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detcli.errors import DataError, UsageError
from detcli.types import Detections, offsets_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import FloatArray, IntArray

MODEL = "model"  # the extra column that says which model a box comes from: 0, 1, 2, ...


def join_models(tables: Sequence[Detections]) -> Detections:
    """One table from one per model: image by image, in each image model by model.

    The extra column `model` (N,) float64 holds the position in `tables`; of the other extra
    columns those stay that every table has. A model that finds nothing in any image leaves no
    trace when it is the last one: give `weights` to have it counted.
    Raises UsageError without a table, DataError where the numbers of images differ.
    """
    if not tables:
        raise UsageError("an ensemble needs at least one set of predictions, got none")
    num_images = tables[0].num_images
    for position, table in enumerate(tables):
        if table.num_images != num_images:
            raise DataError(
                f"an ensemble needs predictions for the same images: the first model has "
                f"{num_images} images, model number {position} has {table.num_images}"
            )
    counts = np.stack([np.diff(table.offsets) for table in tables])  # (models, images)
    offsets = offsets_of(counts.sum(axis=0))
    starts = offsets[:-1] + np.cumsum(counts, axis=0) - counts
    places = [
        np.repeat(start - table.offsets[:-1], count) + np.arange(len(table.scores))
        for start, count, table in zip(starts, counts, tables, strict=True)
    ]
    shared = [name for name in tables[0].extra if all(name in table.extra for table in tables)]
    models = [np.full(len(place), float(model)) for model, place in enumerate(places)]
    return Detections(
        offsets=offsets,
        boxes_xywh=_interleaved(places, [table.boxes_xywh for table in tables]),
        scores=_interleaved(places, [table.scores for table in tables]),
        labels=_interleaved(places, [table.labels for table in tables]),
        extra={
            **{name: _interleaved(places, [t.extra[name] for t in tables]) for name in shared},
            MODEL: _interleaved(places, models),
        },
    )


def _interleaved(places: Sequence[IntArray], columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One column from those of the tables, whose rows go to these places."""
    length = sum(len(column) for column in columns)
    joined = np.empty((length, *columns[0].shape[1:]), columns[0].dtype)
    for place, column in zip(places, columns, strict=True):
        joined[place] = column
    return joined


def models_of(candidates: Detections) -> IntArray:
    """(N,) the model of each row; without the column `model` there is one."""
    if MODEL in candidates.extra:
        return candidates.extra[MODEL].astype(np.int64)
    return np.zeros(len(candidates.scores), np.int64)


def model_weights(candidates: Detections, weights: Sequence[float] | None) -> FloatArray:
    """(M,) the weight of each model, 1 unless given.

    More weights than models in the column `model` stand for models that found nothing. Raises
    UsageError on too few, or on several without the column.
    """
    is_ensemble = MODEL in candidates.extra and len(candidates.scores) > 0
    found = int(candidates.extra[MODEL].max()) + 1 if is_ensemble else 1
    if weights is None:
        return np.ones(found)
    if len(weights) < found or (MODEL not in candidates.extra and len(weights) > 1):
        raise UsageError(
            f"weights: expected one per model, that is {found}, got {len(weights)}: {list(weights)}"
        )
    per_model = np.asarray(weights, np.float64)
    if not ((per_model > 0) & np.isfinite(per_model)).all():
        raise UsageError(f"weights: expected numbers above 0, one per model, got {list(weights)}")
    return per_model


def weighted_scores(candidates: Detections, factors: FloatArray) -> FloatArray:
    """(N,) scores times the factor of the row's model; factors (M,)."""
    if (factors == 1.0).all():
        return candidates.scores
    return candidates.scores * factors[models_of(candidates)]


def fusible(
    candidates: Detections, rows: IntArray, groups: IntArray, skip_box_threshold: float
) -> tuple[IntArray, IntArray]:
    """Grouped rows without those that have no area or, before any weight, a score below the
    threshold."""
    width, height = candidates.boxes_xywh[:, 2], candidates.boxes_xywh[:, 3]
    usable = (width * height > 0.0) & (candidates.scores >= skip_box_threshold)
    if usable.all():
        return rows, groups
    return rows[usable[rows]], offsets_of(usable[rows])[groups]
