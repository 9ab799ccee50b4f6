"""What the readers share: look at the image files, then build the record table.

Letters: I images, G boxes, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from detcli.data.formats.problems import Problems
from detcli.data.images import ImageHeader, read_header, read_image
from detcli.data.records import Notes, Records, pack_names
from detcli.errors import DataError
from detcli.text import did_you_mean, one_line
from detcli.types import offsets_of

if TYPE_CHECKING:
    from detcli.types import BoolArray, FloatArray, IntArray

Progress = Callable[[int, int], None]
"""Called with (images looked at, images in all)."""

CLIP_TOLERANCE_PX = 0.5
"""Boxes that reach further past the image are cut to it and counted. A smaller overhang is
rounding: the table keeps the file's own numbers, so that evaluation equals pycocotools on the
same file, and training cuts them when it makes targets."""

_THREADS = 8


@dataclass(frozen=True)
class ImageTable:
    """One row per image, as an annotation file lists them.

    names: file names relative to folder; ids (I,) int64; declared (I, 2) int64 height, width,
    0 where the annotations do not say; folder: None if there are no image files to look at.
    """

    folder: str | None
    names: list[str]
    ids: IntArray
    declared: IntArray


@dataclass(frozen=True)
class CheckedImages:
    """An ImageTable after its files were looked at.

    sizes (I, 2) int64 height, width that the boxes refer to; apply_exif, usable (I,) bool.
    """

    table: ImageTable
    sizes: IntArray
    apply_exif: BoolArray
    usable: BoolArray
    rotated: int
    ignored: int


@dataclass(frozen=True)
class BoxTable:
    """One row per box, in any order.

    image (G,) int64 row of the image; xywh (G, 4) float64 pixels; labels (G,) int64 into
    class_names; area (G,) float64, NaN where the file has none; crowd, difficult (G,) bool.
    """

    image: IntArray
    xywh: FloatArray
    labels: IntArray
    area: FloatArray
    crowd: BoolArray
    difficult: BoolArray

    def take(self, rows: IntArray | BoolArray) -> BoxTable:
        """The given rows."""
        return BoxTable(**{name: column[rows] for name, column in vars(self).items()})


def check_images(
    table: ImageTable, problems: Problems, progress: Progress | None = None
) -> CheckedImages:
    """Compare every image file with what the annotations say about it.

    Only headers are read; with `problems.skip` every image is decoded once, so that a run never
    meets a broken file later. Annotations are taken to be drawn on the upright image; where the
    declared size fits only the pixels as stored, the image's EXIF orientation is ignored.
    """
    count = len(table.names)
    sizes = table.declared.copy()
    apply_exif = np.ones(count, np.bool_)
    usable = np.ones(count, np.bool_)
    rotated = ignored = 0
    if table.folder is None:
        _require_declared(table, problems, usable)
        return CheckedImages(table, sizes, apply_exif, usable, 0, 0)
    for i, found in enumerate(_headers(table, decode=problems.skip)):
        if progress is not None:
            progress(i + 1, count)
        declared = (int(table.declared[i, 0]), int(table.declared[i, 1]))
        kind, detail = _compare(found, declared)
        if kind:
            problems.add(kind, f"{table.names[i]}{detail}")
            usable[i] = False
            continue
        assert isinstance(found, ImageHeader)
        apply_exif[i] = 0 in declared or declared == found.upright
        sizes[i] = found.upright if apply_exif[i] else (found.height, found.width)
        rotated += bool(apply_exif[i] and found.orientation != 1)
        ignored += not apply_exif[i]
    return CheckedImages(table, sizes, apply_exif, usable, rotated, ignored)


def _require_declared(table: ImageTable, problems: Problems, usable: BoolArray) -> None:
    for i in np.flatnonzero((table.declared <= 0).any(axis=1)):
        problems.add("image without a declared size", table.names[i])
        usable[i] = False


def _headers(table: ImageTable, *, decode: bool) -> Iterator[ImageHeader | DataError]:
    """Header or fault of each image, in order."""
    assert table.folder is not None
    folder = table.folder

    def look(name: str) -> ImageHeader | DataError:
        try:
            path = os.path.join(folder, name)
            header = read_header(path)
            if decode:
                read_image(path)
        except DataError as error:
            return error
        return header

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(look, table.names)


def _compare(found: ImageHeader | DataError, declared: tuple[int, int]) -> tuple[str, str]:
    """(kind of fault, detail), or ("", "") if the file is what the annotations say."""
    if isinstance(found, DataError):
        if str(found) == "no such file":
            return "image file missing", ""
        return "image file broken", f": {found}"
    stored = (found.height, found.width)
    if 0 in declared or declared in (found.upright, stored):
        return "", ""
    real, said = (f"{width}x{height}" for height, width in (found.upright, declared))
    return "image size differs from the declared one", f": declared {said}, real {real}"


def choose_classes(
    names: Sequence[str], classes: Sequence[str] | None, source: object
) -> tuple[tuple[str, ...], IntArray]:
    """The class names in use, and the (C,) new label of each of `names`, -1 if left out.

    DataError if `classes` names something that the data does not have.
    """
    if classes is None:
        return tuple(names), np.arange(len(names), dtype=np.int64)
    if isinstance(classes, str):
        raise DataError(f"data.classes: expected a list of names, got the text {classes!r}")
    if len(set(classes)) != len(classes) or not classes:
        raise DataError(f"data.classes: expected different names, at least one, got {classes!r}")
    position = {name: label for label, name in enumerate(classes)}
    known = set(names)
    for name in classes:
        if name not in known:
            raise DataError(
                f"{source}: data.classes names {name!r}, but the data has "
                f"{one_line(', '.join(names)[:200])}{did_you_mean(name, names)}"
            )
    mapping = np.array([position.get(name, -1) for name in names], np.int64)
    return tuple(classes), mapping


def build_records(
    images: CheckedImages,
    boxes: BoxTable,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    classes: Sequence[str] | None,
    problems: Problems,
    missing_label_files: int = 0,
) -> Records:
    """The record table: unusable images left out, boxes clipped, filtered and grouped by image.

    Raises DataError with all faults if there are any and they are not to be skipped.
    """
    chosen, mapping = choose_classes(class_names, classes, problems.source)
    problems.check()
    if not images.usable.any():
        raise DataError(f"{one_line(problems.source)}: expected at least one usable image, got 0")
    boxes, notes = _tidy(images, boxes, mapping)
    counts = np.bincount(boxes.image, minlength=notes.images)
    present = np.bincount(boxes.labels, minlength=len(chosen)) > 0
    kept = np.flatnonzero(images.usable)
    names, name_offsets = pack_names([images.table.names[i] for i in kept])
    ids = dict(zip(class_names, category_ids, strict=True))
    return Records(
        folder=images.table.folder or "",
        packed_names=names,
        name_offsets=name_offsets,
        image_ids=images.table.ids[kept],
        sizes=images.sizes[kept],
        apply_exif=images.apply_exif[kept],
        offsets=offsets_of(counts),
        boxes_xywh=boxes.xywh,
        labels=boxes.labels,
        area=boxes.area,
        crowd=boxes.crowd,
        difficult=boxes.difficult,
        class_names=chosen,
        category_ids=tuple(ids[name] for name in chosen),
        notes=notes._replace(
            images_without_objects=int((counts == 0).sum()),
            missing_label_files=missing_label_files,
            classes_without_boxes=tuple(
                name for name, has in zip(chosen, present, strict=True) if not has
            ),
            skipped=problems.counts,
        ),
    )


def _tidy(images: CheckedImages, boxes: BoxTable, mapping: IntArray) -> tuple[BoxTable, Notes]:
    """Boxes of usable images and chosen classes, in the image, with area, in image order, and what
    was changed or dropped on the way.

    `image` and `labels` of the result are the new rows and labels.
    """
    boxes = boxes.take(images.usable[boxes.image])
    wanted = mapping[boxes.labels] >= 0
    boxes = boxes.take(wanted)
    with np.errstate(over="ignore"):
        far = boxes.xywh[:, :2] + boxes.xywh[:, 2:]
    xyxy = np.concatenate([boxes.xywh[:, :2], far], axis=1)
    inside = np.clip(xyxy, 0.0, images.sizes[boxes.image][:, [1, 0, 1, 0]])
    cut = (np.abs(inside - xyxy) > CLIP_TOLERANCE_PX).any(axis=1)
    sides = inside[:, 2:] - inside[:, :2]
    solid = np.asarray((sides > 0).all(axis=1))
    new_row = np.cumsum(images.usable) - 1
    tidy = replace(
        boxes,
        image=new_row[boxes.image],
        xywh=np.where(cut[:, None], np.concatenate([inside[:, :2], sides], axis=1), boxes.xywh),
        labels=mapping[boxes.labels],
        area=np.where(np.isnan(boxes.area), sides.prod(axis=1), boxes.area),
    ).take(solid)
    notes = Notes(
        images=int(images.usable.sum()),
        boxes=len(tidy.labels),
        crowd_boxes=int(tidy.crowd.sum()),
        difficult_boxes=int(tidy.difficult.sum()),
        degenerate_boxes=int((~solid).sum()),
        clipped_boxes=int((cut & solid).sum()),
        other_class_boxes=int((~wanted).sum()),
        exif_rotated=images.rotated,
        exif_ignored=images.ignored,
    )
    return tidy.take(np.argsort(tidy.image, kind="stable")), notes
