"""Image files without annotations, as a record table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detcli.data.formats.assemble import BoxTable, ImageTable, build_records, check_images
from detcli.data.formats.problems import Problems
from detcli.data.records import Records


def read_images(
    paths: Sequence[str], class_names: Sequence[str], category_ids: Sequence[int]
) -> Records:
    """A table of these images, numbered from 1, with no boxes. Raises DataError."""
    problems = Problems("the images", skip=False)
    table = ImageTable(
        folder="",
        names=list(paths),
        ids=np.arange(1, len(paths) + 1, dtype=np.int64),
        declared=np.zeros((len(paths), 2), np.int64),
    )
    nothing = np.zeros(0, np.int64)
    boxes = BoxTable(
        image=nothing,
        xywh=np.zeros((0, 4)),
        labels=nothing,
        area=np.zeros(0),
        crowd=np.zeros(0, np.bool_),
        difficult=np.zeros(0, np.bool_),
    )
    return build_records(
        check_images(table, problems),
        boxes,
        class_names=class_names,
        category_ids=category_ids,
        classes=None,
        problems=problems,
    )
