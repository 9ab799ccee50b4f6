"""The extra columns that some suppression methods need, and who writes them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcli.errors import DataError

if TYPE_CHECKING:
    from detcli.types import Detections, FloatArray


@dataclass(frozen=True)
class Column:
    """A column of `Detections.extra`: name, meaning, the detector that writes it, and whether its
    values must be above 0. `width`: numbers per box."""

    name: str
    meaning: str
    writer: str
    width: int = 1
    positive: bool = False


# Method -> the column without which it cannot work.
NEEDED: dict[str, Column] = {
    "iou_guided": Column(
        "iou",
        "predicted IoU of the box with its object",
        "a detector with model.iou_branch",
    ),
    "softer": Column(
        "sigma",
        "standard deviations of left, top, right and bottom in pixels of the original image",
        "a detector with model.box_loss kl",
        width=4,
        positive=True,
    ),
    "adaptive": Column(
        "density",
        "largest IoU of the object with another one of its class",
        "a detector with model.density_branch",
    ),
}


def missing_column(method: str, present: Collection[str]) -> str | None:
    """The column that this method needs and these names lack, if there is one."""
    column = NEEDED.get(method)
    return column.name if column is not None and column.name not in present else None


def needed_column(candidates: Detections, method: str) -> FloatArray:
    """(N,) or (N, width): the column that this method needs.

    Raises DataError where it is missing, has another width, or holds values that are not finite
    or, for `sigma`, not above 0.
    """
    column = NEEDED[method]
    needs = f"method {method!r} needs the column {column.name!r} ({column.meaning})"
    if column.name not in candidates.extra:
        raise DataError(
            f"{needs}, which these candidates lack; {column.writer} writes it; take another "
            "method, or candidates of such a detector"
        )
    values = np.asarray(candidates.extra[column.name], np.float64)
    shape = (len(candidates.scores), column.width)[: 1 if column.width == 1 else 2]
    if values.shape != shape:
        raise DataError(f"{needs} of shape {shape}, got {values.shape}")
    fine = np.isfinite(values) & (values > 0 if column.positive else True)
    if not fine.all():
        row = int(np.flatnonzero(~fine.reshape(len(values), -1).all(axis=1))[0])
        wanted = "finite numbers above 0" if column.positive else "finite numbers"
        raise DataError(
            f"{needs} to hold {wanted}, got {values[row].tolist()} "
            f"in image number {int(candidates.image_index[row])}"
        )
    return values
