"""COCO JSON annotations.

Category ids may have gaps, start anywhere or be unused; labels follow ascending id. Images are
ordered by ascending id, the order in which pycocotools evaluates. An annotation needs no id of
its own, no `area` (then width x height) and no `iscrowd` or `difficult` (then 0); segmentations are
not read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from detcli.data.formats.assemble import BoxTable, ImageTable, Progress, build_records, check_images
from detcli.data.formats.problems import Problems, require_distinct
from detcli.data.images import read_bytes
from detcli.data.records import Records
from detcli.errors import DataError
from detcli.text import one_line

T = TypeVar("T")


class CocoImage(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int | None = None
    width: int | None = None


class CocoAnnotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Literal[0, 1] | bool = 0
    difficult: Literal[0, 1] | bool = 0


class CocoCategory(msgspec.Struct, gc=False):
    id: int
    name: str


class CocoFile(msgspec.Struct):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def read_coco(
    root: str,
    split: Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    on_error: str = "fail",
    progress: Progress | None = None,
) -> Records:
    """Read one split: `annotations` (a JSON file) and `images` (a folder), relative to `root`.

    Without `images` only the annotations are read, which is enough for evaluation; each image
    must then declare its size. Raises DataError.
    """
    path = os.path.join(root, split["annotations"])
    folder = os.path.join(root, split["images"]) if split.get("images") else None
    content = decode_coco(read_bytes(path), path)
    problems = Problems(path, skip=on_error == "skip")
    category_ids, class_names = _categories(content, path)
    images = _images(content, folder, path)
    boxes = _boxes(content, images.ids, category_ids, problems)
    return build_records(
        check_images(images, problems, progress),
        boxes,
        class_names=class_names,
        category_ids=category_ids,
        classes=classes,
        problems=problems,
    )


def decode_coco(data: bytes, path: str) -> CocoFile:
    """Parse a COCO file; DataError naming the entry, what was expected and what was found."""
    try:
        return msgspec.json.decode(data, type=CocoFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise DataError(f"{one_line(path)}: {one_line(_explain(data, error))}") from error


def _explain(data: bytes, error: Exception) -> str:
    """The parser's message with the place in front: `annotations[3].bbox[0]: ...`."""
    if not isinstance(error, msgspec.ValidationError):
        return f"not valid JSON: {error}{_where(data, str(error))}"
    what, _, place = str(error).partition(" - at `$.")
    return f"{place.rstrip('`') or 'top level'}: {what}"


def _where(data: bytes, message: str) -> str:
    """Line of the byte that a parser complains about, and a word on NaN."""
    digits = message.rsplit("byte ", 1)[-1].rstrip(")")
    if not digits.isdigit():
        return ""
    at = int(digits)
    hint = "; JSON has no NaN or Infinity" if data[at : at + 1] in b"NI" else ""
    line = data.count(b"\n", 0, at) + 1
    return f", line {line}{hint}"


def _categories(content: CocoFile, path: str) -> tuple[list[int], list[str]]:
    """Category ids in ascending order and their names."""
    categories = sorted(content.categories, key=lambda category: category.id)
    require_distinct([c.id for c in categories], "every id", f"{path}: categories")
    require_distinct([c.name for c in categories], "every name", f"{path}: categories")
    if not categories:
        raise DataError(f"{path}: categories: expected at least one, got none")
    return [c.id for c in categories], [c.name for c in categories]


def _images(content: CocoFile, folder: str | None, path: str) -> ImageTable:
    """The images by ascending id."""
    images = sorted(content.images, key=lambda image: image.id)
    require_distinct([image.id for image in images], "every id", f"{path}: images")
    sizes = [(image.height or 0, image.width or 0) for image in images]
    return ImageTable(
        folder=folder,
        names=[image.file_name for image in images],
        ids=_integers([image.id for image in images], "images: id", path),
        declared=_integers(sizes, "images: height, width", path).reshape(-1, 2),
    )


def _integers(values: list[Any], what: str, path: str) -> Any:
    try:
        return np.array(values, np.int64)
    except OverflowError as error:
        raise DataError(f"{path}: {what}: expected 64-bit integers, got a larger one") from error


def _boxes(
    content: CocoFile, image_ids: Any, category_ids: list[int], problems: Problems
) -> BoxTable:
    row = {int(image_id): i for i, image_id in enumerate(image_ids)}
    label = {category_id: i for i, category_id in enumerate(category_ids)}
    kept: list[CocoAnnotation] = []
    for position, entry in enumerate(content.annotations):
        fault = _fault(entry, row, label)
        if fault:
            problems.add(fault[0], f"annotations[{position}]: {fault[1]}")
        else:
            kept.append(entry)
    # `difficult` is what we write for objects of Pascal VOC; other tools read `iscrowd` beside it.
    difficult = np.array([entry.difficult for entry in kept], np.bool_)
    return BoxTable(
        image=np.array([row[entry.image_id] for entry in kept], np.int64),
        xywh=np.array([entry.bbox for entry in kept], np.float64).reshape(-1, 4),
        labels=np.array([label[entry.category_id] for entry in kept], np.int64),
        area=np.array([np.nan if e.area is None else e.area for e in kept], np.float64),
        crowd=np.array([entry.iscrowd for entry in kept], np.bool_) & ~difficult,
        difficult=difficult,
    )


def _fault(
    entry: CocoAnnotation, row: Mapping[int, int], label: Mapping[int, int]
) -> tuple[str, str] | None:
    """(kind, detail) of what is wrong with an annotation."""
    if entry.image_id not in row:
        return "annotation of an unknown image", f"image_id {entry.image_id}"
    if entry.category_id not in label:
        return "annotation of an unknown class", f"category_id {entry.category_id}"
    if not all(map(math.isfinite, entry.bbox)):
        return "box is not finite", f"bbox {list(entry.bbox)}"
    if entry.area is not None and not 0 <= entry.area < math.inf:
        return "area is not a size", f"area {entry.area}"
    return None
