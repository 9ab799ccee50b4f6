"""Three images with objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detcli.data.formats.read import read_records
from detcli.data.records import Records
from tests.data.build import write_image

SPLIT = {"annotations": "train.json", "images": "images"}


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Two images of 120 x 160: one with a cat, a dog at the border and a crowd, one empty."""
    images = [
        {"id": number, "file_name": f"{number}.jpg", "height": 120, "width": 160}
        for number in (1, 2)
    ]
    boxes = [(7, [20, 20, 30, 20], 0), (3, [130, 90, 30, 30], 0), (7, [10, 80, 40, 30], 1)]
    annotations = [
        {"image_id": 1, "category_id": category, "bbox": box, "iscrowd": crowd}
        for category, box, crowd in boxes
    ]
    categories = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for number in (1, 2):
        write_image(tmp_path / "images" / f"{number}.jpg", (120, 160), seed=number)
    (tmp_path / "train.json").write_text(json.dumps(content))
    return read_records(format="coco", root=str(tmp_path), split=SPLIT, name="train")
