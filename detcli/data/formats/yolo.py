"""YOLO txt labels: one file per image, rows `class cx cy w h` as fractions of the image.

Classes come from `class_file`: a text file with one name per line, or a YAML file with `names`
(a list, or a mapping from 0, 1, 2 ...). Without it, `classes.txt` and then `data.yaml` in the
root are tried. An image without a label file is an image without objects, and is counted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from detcli.data.formats.assemble import (
    BoxTable,
    CheckedImages,
    ImageTable,
    Progress,
    build_records,
    check_images,
)
from detcli.data.formats.problems import Problems
from detcli.data.images import SUFFIXES, read_bytes
from detcli.data.records import Records
from detcli.errors import DataError
from detcli.text import one_line

CLASS_FILES = ("classes.txt", "data.yaml")


class Row(NamedTuple):
    """One line of a label file."""

    label: int
    cx: float
    cy: float
    w: float
    h: float


def read_yolo(
    root: str,
    split: Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    class_file: str | None = None,
    on_error: str = "fail",
    progress: Progress | None = None,
) -> Records:
    """Read one split: folders `images` and `labels`, relative to `root`. Raises DataError."""
    class_names = read_class_names(root, class_file)
    image_folder = os.path.join(root, split["images"])
    label_folder = os.path.join(root, split["labels"])
    problems = Problems(label_folder, skip=on_error == "skip")
    names = _files(image_folder, SUFFIXES)
    labelled = _label_files(label_folder, names, problems)
    table = ImageTable(
        folder=image_folder,
        names=names,
        ids=np.arange(len(names), dtype=np.int64),
        declared=np.zeros((len(names), 2), np.int64),
    )
    images = check_images(table, problems, progress)
    rows, row_images = [], []
    for i, name in enumerate(names):
        if _stem(name) in labelled and images.usable[i]:
            path = os.path.join(label_folder, labelled[_stem(name)])
            found = _read_rows(path, labelled[_stem(name)], len(class_names), problems)
            rows += found
            row_images += [i] * len(found)
    return build_records(
        images,
        _boxes(rows, row_images, images),
        class_names=class_names,
        category_ids=range(len(class_names)),
        classes=classes,
        problems=problems,
        missing_label_files=sum(_stem(name) not in labelled for name in names),
    )


def read_class_names(root: str, class_file: str | None) -> list[str]:
    """The names in order of class index. Raises DataError."""
    options = [os.path.join(root, name) for name in ([class_file] if class_file else CLASS_FILES)]
    path = next((option for option in options if os.path.isfile(option)), None)
    if path is None:
        raise DataError(f"{one_line(options[0])}: no such class file; set data.class_file")
    text = read_bytes(path).decode("utf-8-sig", "replace")
    if path.endswith((".yaml", ".yml")):
        names = _yaml_names(text, path)
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names or len(set(names)) != len(names):
        raise DataError(f"{one_line(path)}: expected different class names, got {names!r}"[:300])
    return names


def _yaml_names(text: str, path: str) -> list[str]:
    import yaml

    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{one_line(path)}: not valid YAML: {one_line(error)[:200]}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(n, str) or type(n) is int for n in names):
        raise DataError(
            f"{one_line(path)}: names: expected a list of names or a mapping from 0, 1, 2 ..., "
            f"got {one_line(repr(names))[:80]}"
        )
    return [str(name) for name in names]


def _files(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files below a folder with one of the suffixes, as sorted relative paths."""
    if not os.path.isdir(folder):
        raise DataError(f"{one_line(folder)}: no such folder")
    found = [
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(suffixes)
    ]
    return sorted(found)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _label_files(folder: str, names: Sequence[str], problems: Problems) -> dict[str, str]:
    """Stem -> label file; label files without an image, and images that share one, are faults."""
    stems: set[str] = set()
    for name in names:
        if _stem(name) in stems:
            problems.add("two images share one label file", name)
        stems.add(_stem(name))
    labelled = {}
    for name in _files(folder, (".txt",)):
        if _stem(name) in stems:
            labelled[_stem(name)] = name
        elif os.path.basename(name) != "classes.txt":  # some tools put the class list here
            problems.add("label file without an image", name)
    return labelled


def _read_rows(path: str, name: str, num_classes: int, problems: Problems) -> list[Row]:
    rows = []
    for number, line in enumerate(read_bytes(path).decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(parse_row(line, num_classes))
        except DataError as error:
            problems.add("label row broken", f"{name} line {number}: {error}")
    return rows


def parse_row(line: str, num_classes: int) -> Row:
    """Parse one row; DataError (without file and line) if it is not valid."""
    words = line.split()
    if len(words) != 5:
        raise DataError(f"expected 5 columns (class cx cy w h), got {len(words)}")
    try:
        label, *box = (float(word) for word in words)
    except ValueError:
        raise DataError(f"expected 5 numbers, got {one_line(line.strip())[:60]!r}") from None
    if not label.is_integer() or not 0 <= label < num_classes:
        raise DataError(f"expected a class index in 0..{num_classes - 1}, got {words[0][:20]}")
    # A little outside is a box over the edge, and is clipped; far outside is a file in pixels.
    if not all(math.isfinite(value) and -1 <= value <= 2 for value in box):
        raise DataError(f"expected fractions of the image, got {one_line(line.strip())[:60]!r}")
    return Row(int(label), *box)


def _boxes(rows: list[Row], row_images: list[int], images: CheckedImages) -> BoxTable:
    image = np.array(row_images, np.int64)
    values = np.array(rows, np.float64).reshape(-1, 5)
    scale = images.sizes[image][:, ::-1]
    centre, sides = values[:, 1:3] * scale, values[:, 3:5] * scale
    return BoxTable(
        image=image,
        xywh=np.concatenate([centre - sides / 2, sides], axis=1),
        labels=values[:, 0].astype(np.int64),
        area=np.full(len(rows), np.nan),
        crowd=np.zeros(len(rows), np.bool_),
        difficult=np.zeros(len(rows), np.bool_),
    )
