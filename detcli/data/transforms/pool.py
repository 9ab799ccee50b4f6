"""The other images of a data set, for augmentations that mix several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from detcli.data.records import Records
from detcli.data.transforms.sample import Sample, draw_index
from detcli.data.transforms.small import images_with, small_boxes


class Pool:
    """The images of a record table; load(position) gives one as it is on disk."""

    def __init__(self, records: Records, load: Callable[[int], Sample]) -> None:
        self.records = records
        self.load = load
        self._small: dict[float, list[int]] = {}

    def any_image(self) -> Sample:
        """Any image, each as likely, the one that is being augmented included."""
        return self.load(draw_index(len(self.records)))

    def with_small(self, max_side_px: float) -> list[int]:
        """Positions of the images with an object smaller than max_side_px (see `small_boxes`)."""
        if max_side_px not in self._small:
            chosen = images_with(self.records, small_boxes(self.records, max_side_px))
            self._small[max_side_px] = chosen.tolist()
        return self._small[max_side_px]


class Mixing(ABC):
    """A transform that takes other images of the data set besides its own."""

    names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def __call__(self, sample: Sample, pool: Pool) -> Sample:
        """The sample, mixed with images of the pool."""


def too_few(records: Records, _: Mapping[str, Any]) -> str | None:
    """Why a transform that mixes images cannot act; None if it can."""
    if len(records) >= 2:
        return None
    return f"it mixes different images, and the training split has {len(records)}"
