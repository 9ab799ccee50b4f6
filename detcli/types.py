"""What crosses the borders between parts: targets, candidates, detections, ground truth.

Letters: B images in a batch, I images in a data set, N boxes, K ignored boxes, G ground-truth
boxes.

Nothing here imports torch: `Target`, `Batch` and `Candidates` hold tensors, but only their
methods touch them; `Detections` and `GroundTruth` hold NumPy arrays of a whole data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]


def check_shape(name: str, value: Any, *shape: int | None) -> None:
    """Raise ValueError unless `value` has this shape; None stands for any length."""
    got = tuple(value.shape)
    if len(got) != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, got, strict=True)
    ):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name}: expected shape ({wanted}), got {got}")


def offsets_of(counts: Any) -> IntArray:
    """(N + 1,) where each of N groups of so many rows begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def rows_of_images(offsets: IntArray, images: IntArray) -> tuple[IntArray, IntArray]:
    """Rows of the given images, one image after the other, and the (len(images) + 1,) offsets
    that these rows have then."""
    counts = np.diff(offsets)[images]
    taken = offsets_of(counts)
    return np.repeat(offsets[images] - taken[:-1], counts) + np.arange(taken[-1]), taken


@dataclass(frozen=True)
class Target:
    """The objects of one training image, in pixels of the network input.

    boxes (N, 4) float32 xyxy; labels (N,) int64, contiguous, without background;
    ignore_boxes (K, 4) float32 xyxy: regions that count neither for nor against a detector;
    size (height, width) of the valid part of the padded input.
    """

    boxes: Tensor
    labels: Tensor
    ignore_boxes: Tensor
    size: tuple[int, int]

    def __post_init__(self) -> None:
        check_shape("Target.boxes", self.boxes, None, 4)
        check_shape("Target.labels", self.labels, self.boxes.shape[0])
        check_shape("Target.ignore_boxes", self.ignore_boxes, None, 4)

    def to(self, device: Any) -> Target:
        """The same target with its tensors on another device."""
        return self._each(lambda column: column.to(device, non_blocking=True))

    def pin_memory(self) -> Target:
        """The same target in page-locked memory (called by the data loader)."""
        return self._each(lambda column: column.pin_memory())

    def _each(self, moved: Callable[[Tensor], Tensor]) -> Target:
        return Target(moved(self.boxes), moved(self.labels), moved(self.ignore_boxes), self.size)


@dataclass(frozen=True)
class Batch:
    """What the loader hands to the engine: bytes, not floats.

    images (B, 3, H, W) uint8 RGB, zero-padded right and below; one Target per image;
    indices: position of each image in the record table; fired: how often each augmentation
    acted on this batch, by name.
    """

    images: Tensor
    targets: tuple[Target, ...]
    indices: tuple[int, ...]
    fired: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_shape("Batch.images", self.images, len(self.targets), 3, None, None)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by the data loader)."""
        targets = tuple(target.pin_memory() for target in self.targets)
        return replace(self, images=self.images.pin_memory(), targets=targets)


@dataclass(frozen=True)
class Candidates:
    """What a detector proposes for one image, before suppression.

    boxes (N, 4) float32 xyxy pixels of the network input; scores (N,) float32; labels (N,) int64;
    extra: columns some suppression methods need, each with N rows: `iou` (N,), predicted; `sigma`
    (N, 4) pixels, standard deviation of left, top, right, bottom; `density` (N,).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = self.boxes.shape[0]
        check_shape("Candidates.boxes", self.boxes, None, 4)
        check_shape("Candidates.scores", self.scores, count)
        check_shape("Candidates.labels", self.labels, count)


@dataclass(frozen=True)
class Detections:
    """Scored boxes of a whole data set in original-image pixels, grouped by image.

    offsets (I + 1,) int64: image i owns rows offsets[i]:offsets[i + 1];
    boxes_xywh (N, 4) float64: left, top, width, height; scores (N,) float64; labels (N,) int64;
    extra: further columns with N rows. Before suppression these are candidates, after it
    detections; the columns are the same.
    """

    offsets: IntArray
    boxes_xywh: FloatArray
    scores: FloatArray
    labels: IntArray
    extra: Mapping[str, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = self.boxes_xywh.shape[0]
        check_shape("Detections.boxes_xywh", self.boxes_xywh, None, 4)
        check_shape("Detections.scores", self.scores, count)
        check_shape("Detections.labels", self.labels, count)
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != count:
            raise ValueError(f"Detections.offsets: expected 0 to {count}, got {self.offsets}")

    @property
    def num_images(self) -> int:
        return len(self.offsets) - 1

    @property
    def image_index(self) -> IntArray:
        """(N,) the image each row belongs to."""
        return np.repeat(np.arange(self.num_images), np.diff(self.offsets))

    @classmethod
    def join(cls, parts: Sequence[Detections]) -> Detections:
        """One table from the tables of consecutive images."""
        if not parts:
            return cls(np.zeros(1, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(
            offsets=offsets_of(counts),
            boxes_xywh=np.concatenate([part.boxes_xywh for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            extra={
                name: np.concatenate([part.extra[name] for part in parts])
                for name in parts[0].extra
            },
        )

    def take(self, rows: IntArray) -> Detections:
        """The given rows; they must be in image order."""
        counts = np.bincount(self.image_index[rows], minlength=self.num_images)
        return self.regrouped(rows, offsets_of(counts))

    def take_images(self, images: IntArray) -> Detections:
        """The given images (positions), in the given order."""
        return self.regrouped(*rows_of_images(self.offsets, images))

    def regrouped(self, rows: IntArray | slice, offsets: IntArray) -> Detections:
        """The given rows; image i of the result owns offsets[i]:offsets[i + 1] of them."""
        return Detections(
            offsets=offsets,
            boxes_xywh=self.boxes_xywh[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            extra={name: column[rows] for name, column in self.extra.items()},
        )


OBJECT_COLUMNS = ("boxes_xywh", "labels", "area", "crowd", "difficult")
"""Of GroundTruth, and of the record table: those with a row per object."""


@dataclass(frozen=True)
class GroundTruth:
    """The annotated objects of a whole data set in original-image pixels, grouped by image.

    image_ids (I,) int64: the data set's own ids; offsets (I + 1,) int64 as in Detections;
    boxes_xywh (G, 4) float64; labels (G,) int64 contiguous; area (G,) float64 square pixels;
    crowd (G,) bool: regions that may absorb any number of detections; difficult (G,) bool:
    objects that are neither required nor counted against a detector;
    class_names and category_ids: name and original id of each label.
    """

    image_ids: IntArray
    offsets: IntArray
    boxes_xywh: FloatArray
    labels: IntArray
    area: FloatArray
    crowd: BoolArray
    difficult: BoolArray
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        count = self.boxes_xywh.shape[0]
        check_shape("GroundTruth.boxes_xywh", self.boxes_xywh, None, 4)
        for name in OBJECT_COLUMNS[1:]:
            check_shape(f"GroundTruth.{name}", getattr(self, name), count)
        check_shape("GroundTruth.offsets", self.offsets, len(self.image_ids) + 1)
        if len(self.class_names) != len(self.category_ids):
            raise ValueError(
                f"GroundTruth: {len(self.class_names)} class names, "
                f"{len(self.category_ids)} category ids"
            )

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def image_index(self) -> IntArray:
        """(G,) the image each row belongs to."""
        return np.repeat(np.arange(self.num_images), np.diff(self.offsets))

    def take_images(self, images: IntArray) -> GroundTruth:
        """The given images (positions), in the given order, with all classes."""
        rows, offsets = rows_of_images(self.offsets, images)
        return replace(
            self,
            image_ids=self.image_ids[images],
            offsets=offsets,
            **{name: getattr(self, name)[rows] for name in OBJECT_COLUMNS},
        )
