"""The readers on data that others made, against counts and numbers that others published."""

from __future__ import annotations

import numpy as np

from detcli.data.formats.read import read_records
from detcli.data.images import read_image
from detcli.data.records import Records
from tests.paths import SHARED, needs_shared

DATA = SHARED / "data"
pytestmark = needs_shared


def voc(split: str) -> Records:
    return read_records(
        format="voc", root=str(DATA / "bccd-voc"), split={"split": split}, name=split
    )


def test_bccd_counts() -> None:
    splits = [voc(split) for split in ("train", "val", "test")]
    assert [len(records) for records in splits] == [205, 87, 72]
    assert sum(records.notes.degenerate_boxes for records in splits) == 2
    assert sum(records.notes.boxes for records in splits) == 4888 - 2
    assert {records.class_names for records in splits} == {("Platelets", "RBC", "WBC")}
    counts = sum(np.bincount(records.labels, minlength=3) for records in splits)
    assert counts.tolist() == [361, 4155 - 2, 372]
    assert all(records.notes.clipped_boxes == 0 for records in splits)


def test_aerial_counts() -> None:
    parts = []
    for split in ("train", "val"):
        folders = {"images": f"images/{split}", "labels": f"labels/{split}"}
        root = str(DATA / "aerial-cars-yolo")
        parts.append(read_records(format="yolo", root=root, split=folders, name=split))
    assert [len(records) for records in parts] == [78, 17]
    assert sum(records.notes.boxes for records in parts) == 2502
    assert parts[0].class_names == ("car", "truck", "bus", "minibus", "cyclist")
    counts = sum(np.bincount(records.labels, minlength=5) for records in parts)
    assert counts.tolist() == [2323, 5, 83, 91, 0]
    assert parts[0].notes.classes_without_boxes == ("cyclist",)
    sides = np.sqrt(np.concatenate([records.area for records in parts]))
    assert 20 < np.median(sides) < 30


def test_jpegs_equal_pillow() -> None:
    from PIL import Image

    paths = [
        *sorted((DATA / "demo-photos").glob("*.jpg")),
        *sorted((DATA / "bccd-voc").rglob("*.jpg"))[:10],
    ]
    assert len(paths) == 18
    for path in paths:
        reference = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert np.abs(read_image(str(path)).astype(int) - reference).max() <= 1
