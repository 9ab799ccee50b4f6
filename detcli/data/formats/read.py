"""One entry to all annotation formats.

Importing this imports no reader, and no numpy: a recipe's images are counted without either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detcli.errors import DataError
from detcli.text import one_line

if TYPE_CHECKING:
    from detcli.data.formats.assemble import Progress
    from detcli.data.records import Records


class Source(NamedTuple):
    """Where a split is, and what its reader is told. options: classes, on_error and progress."""

    root: str
    split: Mapping[str, Any]
    name: str
    class_file: str | None
    shapes: Mapping[str, Any]
    options: Mapping[str, Any]


class Reader(NamedTuple):
    """One format.

    keys: of a split, all needed but those in `optional`; read(source): raises DataError;
    num_images(root, split, shapes): of the training split, without opening one; raises OSError or
    ValueError.
    """

    keys: tuple[str, ...]
    read: Callable[[Source], Records]
    num_images: Callable[[Path, Mapping[str, Any], Mapping[str, Any]], int]
    optional: tuple[str, ...] = ()


def read_records(
    *,
    format: str,
    root: str,
    split: Mapping[str, Any] | None,
    name: str,
    classes: Sequence[str] | None = None,
    on_error: str = "fail",
    class_file: str | None = None,
    shapes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Records:
    """Read one split of a data set.

    format: a key of READERS; root: its folder; split: where the split is, the format's keys; name:
    train, val or test, for messages and for shapes; classes: keep only these, in this order;
    on_error: fail (a DataError lists what is wrong) or skip (it is left out and counted in
    `Records.notes`); shapes: the keywords of `write_shapes`. Raises DataError.
    """
    if format not in READERS:
        expected = " or ".join(", ".join(READERS).rsplit(", ", 1))
        raise DataError(f"data.format: expected {expected}, got {format!r}")
    reader, split = READERS[format], split or {}
    needed = [key for key in reader.keys if key not in reader.optional]
    if any(not split.get(key) for key in needed):
        absent = " and ".join(key for key in needed if not split.get(key))
        raise DataError(
            f"data.{one_line(name)}: format {format} needs {absent}, got {one_line(dict(split))}"
        )
    options = {"classes": classes, "on_error": on_error, "progress": progress}
    return reader.read(Source(root, split, name, class_file, shapes or {}, options))


def count_images(
    *,
    format: str,
    root: str,
    split: Mapping[str, Any] | None,
    shapes: Mapping[str, Any] | None = None,
) -> int | None:
    """How many images the training split has, without opening one; None where the data is not
    here or cannot be read. Arguments: as in `read_records`."""
    try:
        return READERS[format].num_images(Path(root), split or {}, shapes or {}) or None
    except (OSError, ValueError, KeyError):
        return None


def _read_coco(source: Source) -> Records:
    from detcli.data.formats.coco import read_coco

    return read_coco(source.root, source.split, **source.options)


def _count_coco(root: Path, split: Mapping[str, Any], _: Mapping[str, Any]) -> int:
    annotations = (root / split["annotations"]).read_bytes()
    import msgspec

    # Raw: skipped, not decoded. Its errors are ValueErrors.
    parts = msgspec.json.decode(annotations, type=dict[str, msgspec.Raw])
    return len(msgspec.json.decode(parts["images"], type=list[msgspec.Raw]))


def _read_voc(source: Source) -> Records:
    from detcli.data.formats.voc import read_voc

    return read_voc(source.root, source.split, **source.options)


def _count_voc(root: Path, split: Mapping[str, Any], _: Mapping[str, Any]) -> int:
    lines = (root / "ImageSets" / "Main" / f"{split['split']}.txt").read_bytes().splitlines()
    return sum(bool(line.strip()) for line in lines)


def _read_yolo(source: Source) -> Records:
    from detcli.data.formats.yolo import read_yolo

    return read_yolo(source.root, source.split, class_file=source.class_file, **source.options)


def _count_yolo(root: Path, split: Mapping[str, Any], _: Mapping[str, Any]) -> int:
    from detcli.data.images import SUFFIXES  # brings numpy

    folders = os.walk(root / split["images"], followlinks=True)
    return sum(name.lower().endswith(SUFFIXES) for _, _, names in folders for name in names)


def _read_shapes(source: Source) -> Records:
    from detcli.data.formats.coco import read_coco
    from detcli.data.formats.shapes import write_shapes

    name = source.name
    if name not in ("train", "val"):
        raise DataError(f"data.{name}: shapes has the splits train and val, not {name!r}")
    root = write_shapes(source.root, **source.shapes)
    split = {"annotations": f"annotations/{name}.json", "images": f"images/{name}"}
    return read_coco(root, split, **source.options)


def _count_shapes(root: Path, split: Mapping[str, Any], shapes: Mapping[str, Any]) -> int:
    return int(shapes["num_train"])


READERS = {
    "coco": Reader(("annotations", "images"), _read_coco, _count_coco, optional=("images",)),
    "voc": Reader(("split",), _read_voc, _count_voc),
    "yolo": Reader(("images", "labels"), _read_yolo, _count_yolo),
    "shapes": Reader((), _read_shapes, _count_shapes),
}
"""All formats by their names in recipes; shapes is generated."""
