"""The split that the small data sets of build.py have, read, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detcli.data.formats.read import read_records
from detcli.data.records import Records
from detcli.errors import DataError

COCO = {"annotations": "train.json", "images": "images"}
YOLO = {"images": "images/train", "labels": "labels/train"}


def read(root: Path, format: str, **options: Any) -> Records:
    split = {"coco": COCO, "voc": {"split": "train"}, "yolo": YOLO}[format]
    return read_records(format=format, root=str(root), split=split, name="train", **options)


def fails(root: Path, format: str, **options: Any) -> str:
    """The one line of the DataError."""
    with pytest.raises(DataError) as caught:
        read(root, format, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
