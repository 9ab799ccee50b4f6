"""The record table: every image and box of a split in a few flat arrays.

Letters: I images, G boxes, C classes. Flat arrays have no Python object per image or box, so
worker processes that inherit the table share its memory instead of copying it page by page as
reference counts change, and sending it to a worker costs a handful of objects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detcli.types import OBJECT_COLUMNS, GroundTruth, check_shape, offsets_of, rows_of_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import BoolArray, FloatArray, IntArray


class Notes(NamedTuple):
    """What reading a split found and changed; everything here belongs in the run's log.

    images, boxes: what the table holds. degenerate_boxes: no area (after clipping), dropped.
    clipped_boxes: reached past the image by more than CLIP_TOLERANCE_PX, cut to it.
    other_class_boxes: of classes that `data.classes` leaves out, dropped.
    exif_rotated: images that are turned upright because their annotations are; exif_ignored:
    images whose annotations belong to the pixels as stored, so that they are left as they are.
    missing_label_files: YOLO images without a label file, taken as images without objects.
    skipped: (kind of fault, how many) left out by `on_error: skip`.
    """

    images: int
    boxes: int
    images_without_objects: int = 0
    crowd_boxes: int = 0
    difficult_boxes: int = 0
    degenerate_boxes: int = 0
    clipped_boxes: int = 0
    other_class_boxes: int = 0
    exif_rotated: int = 0
    exif_ignored: int = 0
    missing_label_files: int = 0
    classes_without_boxes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, int], ...] = ()

    def sentences(self) -> list[str]:
        """One line per fact that is worth saying; facts that are zero are left out."""
        lines = [f"{self.images} images, {self.boxes} boxes"]
        facts = [
            (self.images_without_objects, "images without objects (background), kept"),
            (self.crowd_boxes, "crowd regions (ignored: neither positives nor false positives)"),
            (self.difficult_boxes, "difficult boxes (ignored in the evaluation)"),
            (self.degenerate_boxes, "zero-area boxes, dropped"),
            (self.clipped_boxes, "boxes beyond the image border, clipped"),
            (self.other_class_boxes, "boxes of unused classes, dropped"),
            (self.exif_rotated, "images rotated by their EXIF orientation"),
            (
                self.exif_ignored,
                "images with EXIF orientation that annotations ignore, not rotated",
            ),
            (self.missing_label_files, "images without a label file, taken as background"),
        ]
        lines += [f"{what}: {count}" for count, what in facts if count]
        if self.classes_without_boxes:
            names = ", ".join(self.classes_without_boxes)
            lines.append(f"classes without boxes: {len(self.classes_without_boxes)} ({names})")
        lines += [f"skipped (on_error: skip), {kind}: {count}" for kind, count in self.skipped]
        return lines


@dataclass(frozen=True)
class Records:
    """One split of a data set. Arrays are read-only.

    folder: where the image files are, "" if only annotations were read;
    packed_names, name_offsets (I + 1,): the file names, UTF-8 bytes end to end;
    image_ids (I,) int64: the data set's own (position from 0 for formats without ids);
    sizes (I, 2) int64: height, width of the image that the boxes refer to;
    apply_exif (I,) bool: whether decoding turns the image upright before the boxes fit;
    offsets (I + 1,) int64: image i owns boxes offsets[i]:offsets[i + 1];
    boxes_xywh (G, 4) float64 pixels: left, top, width, height, as in the file but for boxes that
    reach past the image by more than CLIP_TOLERANCE_PX: these are clipped to it;
    labels (G,) int64 contiguous from 0; area (G,) float64 square pixels, the file's own figure
    where it has one; crowd, difficult (G,) bool;
    class_names, category_ids: name and original id of each label.
    """

    folder: str
    packed_names: NDArray[np.uint8]
    name_offsets: IntArray
    image_ids: IntArray
    sizes: IntArray
    apply_exif: BoolArray
    offsets: IntArray
    boxes_xywh: FloatArray
    labels: IntArray
    area: FloatArray
    crowd: BoolArray
    difficult: BoolArray
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    notes: Notes

    def __post_init__(self) -> None:
        images, boxes = len(self.image_ids), len(self.labels)
        check_shape("Records.name_offsets", self.name_offsets, images + 1)
        check_shape("Records.sizes", self.sizes, images, 2)
        check_shape("Records.apply_exif", self.apply_exif, images)
        check_shape("Records.offsets", self.offsets, images + 1)
        check_shape("Records.boxes_xywh", self.boxes_xywh, boxes, 4)
        for name in ("area", "crowd", "difficult"):
            check_shape(f"Records.{name}", getattr(self, name), boxes)
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def learned(self) -> BoolArray:
        """(G,) objects that a detector learns: neither crowd regions nor difficult."""
        return np.asarray(~(self.crowd | self.difficult))

    def name(self, index: int) -> str:
        """The image's file name relative to `folder`."""
        start, stop = self.name_offsets[index], self.name_offsets[index + 1]
        return self.packed_names[start:stop].tobytes().decode("utf-8", "surrogateescape")

    def path(self, index: int) -> str:
        """The image file."""
        return os.path.join(self.folder, self.name(index))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) in pixels of the image that the boxes refer to."""
        height, width = self.sizes[index]
        return int(height), int(width)

    def rows(self, index: int) -> slice:
        """Which rows of the box columns belong to an image."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def ground_truth(self) -> GroundTruth:
        """The annotations in the form that evaluation takes."""
        return GroundTruth(**{each.name: getattr(self, each.name) for each in fields(GroundTruth)})

    def take(self, images: Sequence[int] | IntArray) -> Records:
        """The given images, in the given order; `notes` stay those of the whole split."""
        index = np.asarray(images, dtype=np.int64)
        names, name_offsets = pack_names([self.name(int(i)) for i in index])
        rows, offsets = rows_of_images(self.offsets, index)
        by_image = ("image_ids", "sizes", "apply_exif")
        return replace(
            self,
            packed_names=names,
            name_offsets=name_offsets,
            offsets=offsets,
            **{name: getattr(self, name)[index] for name in by_image},
            **{name: getattr(self, name)[rows] for name in OBJECT_COLUMNS},
        )


def pack_names(names: Sequence[str]) -> tuple[NDArray[np.uint8], IntArray]:
    """The names as one byte array, and the (I + 1,) offsets of each in it."""
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    return np.frombuffer(b"".join(encoded), np.uint8), offsets_of([len(name) for name in encoded])
