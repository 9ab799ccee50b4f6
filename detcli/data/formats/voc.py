"""Pascal VOC: Annotations/*.xml, JPEGImages/, ImageSets/Main/<split>.txt.

Boxes in the files are pixel indices counted from 1, both ends included (VOC development kit), so
a box from 1 to W covers the whole width. In continuous coordinates that is [xmin - 1, xmax], the
reading detectron2 uses; MMDetection subtracts 1 from all four and so loses a pixel. Labelling
tools that count from 0 write 0 now and then: that edge is put at 0. A box whose corners coincide
as written (xmax <= xmin or ymax <= ymin) is a slip of the hand, not a one-pixel object: dropped.

Classes are sorted by name over all XML files of the data set, not of the split alone, so that
labels agree between splits; `classes` gives another order or a choice.
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from detcli.data.formats.assemble import BoxTable, ImageTable, Progress, build_records, check_images
from detcli.data.formats.problems import Problems, require_distinct
from detcli.data.images import SUFFIXES, read_bytes
from detcli.data.records import Records
from detcli.errors import DataError
from detcli.text import one_line


class VocObject(NamedTuple):
    """One object as written: corners (xmin, ymin, xmax, ymax) counted from 1."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


class VocFile(NamedTuple):
    """One annotation file; height and width are 0 if it does not say."""

    height: int
    width: int
    objects: list[VocObject]


def read_voc(
    root: str,
    split: Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    on_error: str = "fail",
    progress: Progress | None = None,
) -> Records:
    """Read the images that ImageSets/Main/<split>.txt lists. Raises DataError."""
    list_path = os.path.join(root, "ImageSets", "Main", f"{split['split']}.txt")
    stems = _read_list(list_path)
    problems = Problems(list_path, skip=on_error == "skip")
    files = _read_annotations(root, stems, problems)
    class_names = _all_names(root, files)
    if not class_names:
        raise DataError(f"{root}: Annotations: expected objects with names, got none")
    usable = [stem for stem in stems if stem in files]
    images = ImageTable(
        folder=os.path.join(root, "JPEGImages"),
        names=_image_names(os.path.join(root, "JPEGImages"), usable),
        ids=np.flatnonzero([stem in files for stem in stems]).astype(np.int64),
        declared=np.array(
            [(files[stem].height, files[stem].width) for stem in usable], np.int64
        ).reshape(-1, 2),
    )
    return build_records(
        check_images(images, problems, progress),
        _boxes([files[stem] for stem in usable], class_names),
        class_names=class_names,
        category_ids=range(1, len(class_names) + 1),
        classes=classes,
        problems=problems,
    )


def parse_voc(data: bytes) -> VocFile:
    """Parse one annotation file; DataError (without the file's name) if it is not valid."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DataError("document types and entities are not accepted")
    try:
        top = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"not valid XML: {one_line(error)}") from error
    size = top.find("size")
    height = width = 0
    if size is not None:
        height, width = (_size(size, side) for side in ("height", "width"))
    objects = [_object(node, f"object {i}") for i, node in enumerate(top.findall("object"), 1)]
    return VocFile(height, width, objects)


def _size(node: ET.Element, side: str) -> int:
    if node.find(side) is None:
        return 0
    value = _number(node, side, "size")
    if value < 0 or value != int(value) or value > 2**31:
        raise DataError(f"size: {side}: expected a number of pixels, got {value}")
    return int(value)


def _object(node: ET.Element, where: str) -> VocObject:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where}: expected a name, got none")
    box = node.find("bndbox")
    if box is None:
        raise DataError(f"{where} ({one_line(name)}): expected a bndbox, got none")
    xmin, ymin, xmax, ymax = (
        _number(box, side, where) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = (node.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise DataError(f"{where}: difficult: expected 0 or 1, got {one_line(difficult)[:40]!r}")
    return VocObject(name, (xmin, ymin, xmax, ymax), difficult == "1")


def _number(node: ET.Element, name: str, where: str) -> float:
    text = node.findtext(name)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        got = "nothing" if text is None else repr(one_line(text)[:40])
        raise DataError(f"{where}: {name}: expected a number, got {got}")
    return value


def _read_list(path: str) -> list[str]:
    """The stems a split file lists; a second column of -1, 0 or 1 is ignored."""
    stems: list[str] = []
    for line in read_bytes(path).decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) == 2 and words[1] in ("-1", "0", "1"):
            stems.append(words[0])
        elif words:
            stems.append(line.strip())
    if not stems:
        raise DataError(f"{path}: expected image names, one per line, got none")
    require_distinct(stems, "every image", path)
    return stems


def _read_annotations(root: str, stems: list[str], problems: Problems) -> dict[str, VocFile]:
    files: dict[str, VocFile] = {}
    for stem in stems:
        path = os.path.join(root, "Annotations", f"{stem}.xml")
        if not _exists(path):
            problems.add("annotation file missing", f"Annotations/{stem}.xml")
            continue
        try:
            files[stem] = parse_voc(read_bytes(path))
        except DataError as error:
            problems.add("annotation file broken", f"Annotations/{stem}.xml: {error}")
    return files


def _exists(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a name with a zero byte
        return False


def _all_names(root: str, files: Mapping[str, VocFile]) -> list[str]:
    """Sorted class names of the whole data set; broken files of other splits are passed over."""
    names = {found.name for file in files.values() for found in file.objects}
    folder = os.path.join(root, "Annotations")
    for entry in os.listdir(folder) if os.path.isdir(folder) else ():
        stem, suffix = os.path.splitext(entry)
        if suffix.lower() == ".xml" and stem not in files:
            try:
                other = parse_voc(read_bytes(os.path.join(folder, entry)))
            except DataError:
                continue
            names.update(found.name for found in other.objects)
    return sorted(names)


def _image_names(folder: str, stems: list[str]) -> list[str]:
    """File name of each stem; `<stem>.jpg` where there is none, to be reported as missing."""
    present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    names = []
    for stem in stems:
        options = [stem + suffix for suffix in SUFFIXES]
        options += [stem + suffix.upper() for suffix in SUFFIXES]
        names.append(next((name for name in options if name in present), f"{stem}.jpg"))
    return names


def _boxes(files: list[VocFile], class_names: list[str]) -> BoxTable:
    label = {name: i for i, name in enumerate(class_names)}
    objects = [(i, found) for i, file in enumerate(files) for found in file.objects]
    corners = np.array([found.corners for _, found in objects], np.float64).reshape(-1, 4)
    xyxy = corners - np.array([1.0, 1.0, 0.0, 0.0])
    zero_based = (corners[:, :2] >= 0) & (corners[:, :2] < 1)
    xyxy[:, :2][zero_based] = 0.0
    slips = (corners[:, 2:] <= corners[:, :2]).any(axis=1)
    xyxy[slips, 2:] = xyxy[slips, :2]
    return BoxTable(
        image=np.array([i for i, _ in objects], np.int64),
        xywh=np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1),
        labels=np.array([label[found.name] for _, found in objects], np.int64),
        area=np.full(len(objects), np.nan),
        crowd=np.zeros(len(objects), np.bool_),
        difficult=np.array([found.difficult for _, found in objects], np.bool_),
    )
