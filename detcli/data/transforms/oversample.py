"""Images that an epoch shows more than once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from detcli.data.records import Records
from detcli.data.transforms.small import images_with, nothing_small, small_boxes

if TYPE_CHECKING:
    from detcli.types import IntArray


class Oversample:
    """Every image with a small object occurs `ratio` times in an epoch, each time augmented anew
    (Kisantal et al. 2019). max_side_px: as in `small_boxes`."""

    names = ("oversample",)

    def __init__(self, ratio: int, max_side_px: float) -> None:
        self.ratio = ratio
        self.max_side_px = max_side_px

    def extra(self, records: Records) -> IntArray:
        """The images (positions) of an epoch beyond the first time of each."""
        chosen = images_with(records, small_boxes(records, self.max_side_px))
        return np.tile(chosen, self.ratio - 1)


def nothing_to_repeat(records: Records, keywords: Mapping[str, Any]) -> str | None:
    """Why Oversample could do nothing on these images; None if it can act."""
    if why := nothing_small(records, keywords):
        return why
    extra = Oversample(**keywords).extra(records)
    if len(extra) < len(records) * (keywords["ratio"] - 1):
        return None
    return "every training image has small objects, so it would only make epochs longer"
