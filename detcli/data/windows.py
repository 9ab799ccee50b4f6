"""Images cut into overlapping windows, each of which is an image of its own to the detector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from detcli.data.dataset import DetectionDataset
from detcli.data.records import Records
from detcli.data.transforms import Pipeline, Sample
from detcli.types import Detections, check_shape, offsets_of

if TYPE_CHECKING:
    from detcli.types import BoolArray, FloatArray, IntArray

_EDGE_PX = 1.5  # a box that comes this near to a cut continues behind it


@dataclass(frozen=True)
class Windows:
    """Windows of a data set's images, image by image.

    image (W,) int64: position of the image; corners (W, 4) int64: left, top, right, bottom in
    pixels of the image; offsets (I + 1,) int64: image i owns windows offsets[i]:offsets[i + 1];
    cut (W, 4) bool: sides at which the image continues behind the window.
    """

    image: IntArray
    corners: IntArray
    offsets: IntArray
    cut: BoolArray

    def __post_init__(self) -> None:
        check_shape("Windows.corners", self.corners, len(self.image), 4)
        check_shape("Windows.cut", self.cut, len(self.image), 4)

    def __len__(self) -> int:
        return len(self.image)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a window in pixels."""
        left, top, right, bottom = self.corners[index].tolist()
        return bottom - top, right - left


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Where windows of `side` pixels begin on `length` pixels: as few as give an overlap of at
    least `overlap` x side, spread evenly, the last ending at the border."""
    if length <= side:
        return [0]
    count = 1 + int(np.ceil((length - side) / (side * (1 - overlap))))
    return np.linspace(0, length - side, count).round().astype(int).tolist()  # type: ignore[no-any-return]


def cut_into_windows(records: Records, side: int, overlap: float) -> Windows:
    """Square windows of `side` pixels; an image that is no larger is one window.

    overlap in [0, 1): fraction of the side that neighbours have in common at least.
    """
    corners: list[tuple[int, int, int, int]] = []
    counts = []
    for height, width in records.sizes.tolist():
        before = len(corners)
        corners += [
            (left, top, min(left + side, width), min(top + side, height))
            for top in starts(height, side, overlap)
            for left in starts(width, side, overlap)
        ]
        counts.append(len(corners) - before)
    table = np.array(corners, np.int64).reshape(-1, 4)
    image = np.repeat(np.arange(len(records)), counts)
    heights, widths = records.sizes[image].T
    borders = np.stack([np.zeros_like(widths), np.zeros_like(heights), widths, heights], axis=1)
    return Windows(image, table, offsets_of(counts), table != borders)


class WindowDataset(DetectionDataset):
    """The windows of a record table's images as network inputs, without boxes.

    Windows of one image come one after the other, so the image that was decoded last is kept.
    """

    def __init__(self, records: Records, windows: Windows, transforms: Pipeline) -> None:
        super().__init__(records, transforms, seed=0)
        self.windows = windows
        self._decoded: tuple[int, Sample] | None = None

    def __len__(self) -> int:
        return len(self.windows)

    def load(self, index: int) -> Sample:
        """One window as it is on disk."""
        image = int(self.windows.image[index])
        if self._decoded is None or self._decoded[0] != image:
            self._decoded = image, super().load(image)
        left, top, right, bottom = self.windows.corners[index].tolist()
        nothing = torch.zeros(0, dtype=torch.bool)
        whole = self._decoded[1].keep(torch.zeros(0, dtype=torch.int64))
        return whole.changed(image=whole.image[:, top:bottom, left:right], ignore=nothing)


def join_windows(found: Detections, windows: Windows) -> tuple[Detections, int]:
    """Boxes of windows as boxes of their images, and how many were dropped.

    found: one "image" per window, boxes in its pixels. A box that touches a side at which its
    window was cut is a piece of an object, and is dropped: the neighbour that overlaps, or the
    view of the whole image, shows that object whole.
    """
    window = found.image_index
    boxes = found.boxes_xywh.copy()
    boxes[:, :2] += windows.corners[window, :2]
    near = _inside_sides(boxes, windows.corners[window]) < _EDGE_PX
    whole = ~(near & windows.cut[window]).any(axis=1)
    joined = replace(found, offsets=found.offsets[windows.offsets], boxes_xywh=boxes)
    return joined.take(np.flatnonzero(whole)), int((~whole).sum())


def _inside_sides(boxes_xywh: FloatArray, corners: IntArray) -> FloatArray:
    """(N, 4) pixels from the left, top, right, bottom of its window to the same side of a box,
    negative where the box leaves the window."""
    far = boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    return np.concatenate([boxes_xywh[:, :2] - corners[:, :2], corners[:, 2:] - far], axis=1)
