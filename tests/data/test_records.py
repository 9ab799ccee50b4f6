"""The record table: flat memory, packed names, selection."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detcli.data.formats.read import read_records
from detcli.data.records import Records, pack_names
from tests.data.build import coco_content


def records_of(tmp_path: Path, num_images: int) -> Records:
    content = coco_content(num_images)
    (tmp_path / "a.json").write_text(json.dumps(content))
    split = {"annotations": "a.json", "images": None}
    return read_records(format="coco", root=str(tmp_path), split=split, name="train")


def test_objects_do_not_grow_with_images(tmp_path: Path) -> None:
    """A worker that gets the table gets a fixed number of Python objects."""
    few, many = (pickle.dumps(records_of(tmp_path, count), protocol=5) for count in (10, 2000))
    counts = [sum(1 for _ in pickletools.genops(data)) for data in (few, many)]
    assert abs(counts[0] - counts[1]) < 20  # small arrays use other opcodes
    per_image = (len(many) - len(few)) / 1990
    assert per_image < 200  # bytes; one box per image


def test_arrays_are_read_only(tmp_path: Path) -> None:
    records = records_of(tmp_path, 3)
    with pytest.raises(ValueError, match="read-only"):
        records.boxes_xywh[0, 0] = 1


def test_names_round_trip() -> None:
    names = ["a.jpg", "", "sub/ä ö.png", os.fsdecode(b"\xff.jpg"), "画.jpg"]
    packed, offsets = pack_names(names)
    assert packed.dtype == np.uint8
    assert [
        packed[offsets[i] : offsets[i + 1]].tobytes().decode("utf-8", "surrogateescape")
        for i in range(len(names))
    ] == names


def test_take_keeps_images_with_their_boxes(tmp_path: Path) -> None:
    records = records_of(tmp_path, 4)  # boxes per image: 2, 1, 1, 0
    some = records.take([2, 3, 0])
    assert some.image_ids.tolist() == [20, 30, 0]
    assert [some.name(i) for i in range(3)] == ["2.jpg", "3.jpg", "0.jpg"]
    assert some.offsets.tolist() == [0, 1, 1, 3]
    for new, old in enumerate((2, 3, 0)):
        assert np.array_equal(
            some.boxes_xywh[some.rows(new)], records.boxes_xywh[records.rows(old)]
        )


def test_readers_do_not_import_torch() -> None:
    code = (
        "import sys, detcli.data.formats.read, detcli.data.formats.shapes;"
        "import detcli.data.images, detcli.data.plan;"
        "sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
