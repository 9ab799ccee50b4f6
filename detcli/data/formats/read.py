"""One entry to all annotation formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detcli.data.formats.assemble import Progress
from detcli.data.formats.coco import read_coco
from detcli.data.formats.shapes import write_shapes
from detcli.data.formats.voc import read_voc
from detcli.data.formats.yolo import read_yolo
from detcli.data.records import Records
from detcli.errors import DataError
from detcli.text import one_line

SPLIT_KEYS = {"coco": ("annotations",), "voc": ("split",), "yolo": ("images", "labels")}


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

    format: coco, voc, yolo or shapes; root: its folder; split: where the split is (coco
    `annotations`, `images`; voc `split`; yolo `images`, `labels`; shapes: not needed); name:
    train, val or test, for messages and for shapes; classes: keep only these, in this order;
    on_error: fail (a DataError lists what is wrong) or skip (it is left out and counted in
    `Records.notes`); shapes: the keywords of `write_shapes`. Raises DataError.
    """
    if format == "shapes":
        if name not in ("train", "val"):
            raise DataError(f"data.{name}: shapes has the splits train and val, not {name!r}")
        root = write_shapes(root, **(shapes or {}))
        split = {"annotations": f"annotations/{name}.json", "images": f"images/{name}"}
        return read_coco(root, split, classes=classes, on_error=on_error, progress=progress)
    if format not in SPLIT_KEYS:
        raise DataError(f"data.format: expected coco, voc, yolo or shapes, got {format!r}")
    split = split or {}
    absent = [key for key in SPLIT_KEYS[format] if not split.get(key)]
    if absent:
        raise DataError(
            f"data.{one_line(name)}: format {format} needs {' and '.join(absent)}, got "
            f"{one_line(dict(split))}"
        )
    if format == "coco":
        return read_coco(root, split, classes=classes, on_error=on_error, progress=progress)
    if format == "voc":
        return read_voc(root, split, classes=classes, on_error=on_error, progress=progress)
    return read_yolo(
        root, split, classes=classes, class_file=class_file, on_error=on_error, progress=progress
    )
