"""The picture of the worst mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcli.data.formats.read import read_records
from detcli.data.records import Records
from detcli.engine.pictures.worst import CELL_PX, write_worst
from detcli.types import Detections

GREEN = (40, 120, 60)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Two green images with one object each, of the classes a and b."""
    images = [
        {"id": number, "file_name": f"{number}.png", "width": 120, "height": 80}
        for number in (1, 2)
    ]
    for image in images:
        Image.new("RGB", (120, 80), GREEN).save(tmp_path / str(image["file_name"]))
    content = {
        "images": images,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40]},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [10, 10, 40, 40]},
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    split = {"annotations": "a.json", "images": "."}
    return read_records(format="coco", root=str(tmp_path), split=split, name="val")


def detections(rows: list[tuple[int, list[float], float, int]]) -> Detections:
    """Of (image, box, score, label), images in order."""
    counts = np.bincount([image for image, *_ in rows], minlength=2)
    return Detections(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes_xywh=np.array([box for _, box, *_ in rows], np.float64),
        scores=np.array([score for *_, score, _ in rows], np.float32),
        labels=np.array([label for *_, label in rows], np.int64),
    )


def test_a_row_for_each_kind_that_occurs(records: Records, tmp_path: Path) -> None:
    found = detections(
        [
            (0, [10, 10, 40, 40], 0.9, 0),  # true
            (0, [80, 40, 30, 30], 0.8, 0),  # background
            (0, [70, 45, 30, 30], 0.7, 1),  # background
            (1, [10, 10, 40, 40], 0.6, 0),  # wrong class
        ]
    )
    path = tmp_path / "out" / "worst.png"
    assert write_worst(path, records, records.ground_truth(), found, 2)
    picture = np.asarray(Image.open(path))
    assert picture.shape[2] == 3
    assert 2 * CELL_PX < picture.shape[1] < 2 * CELL_PX + 20
    images = (np.abs(picture.astype(int) - GREEN).max(axis=2) < 3).any(axis=1)
    assert np.count_nonzero(np.diff(images.astype(int)) == 1) == 2  # two strips
    assert 2 * 160 <= images.sum() <= 2 * 161  # of images 120 x 80 in cells of 240


def test_nothing_wrong_nothing_drawn(records: Records, tmp_path: Path) -> None:
    found = detections([(0, [10, 10, 40, 40], 0.9, 0)])
    assert not write_worst(tmp_path / "worst.png", records, records.ground_truth(), found, 2)
    assert not (tmp_path / "worst.png").exists()
