"""YOLO files of known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.build import write_yolo
from tests.data.reading import fails, read


def test_yolo_rows_become_pixels(tmp_path: Path) -> None:
    labels = {
        "a": "1 0.5 0.5 0.5 0.25\n\n0 1.0 0.5 0.2 1.0\n",
        "b": None,
        "c": "0 0.5 0.5 0.0 0.1\n",
    }
    write_yolo(tmp_path, labels)
    records = read(tmp_path, "yolo")
    assert np.allclose(records.boxes_xywh, [[15, 15, 30, 10], [54, 0, 6, 40]])
    assert records.labels.tolist() == [1, 0]
    assert records.category_ids == (0, 1)
    assert records.notes.missing_label_files == 1
    assert records.notes.images_without_objects == 2
    assert records.notes.degenerate_boxes == 1
    assert records.notes.clipped_boxes == 1


@pytest.mark.parametrize(
    "text", ["names: [cat, dog]", "names: {0: cat, 1: dog}", "names:\n  1: dog\n  0: cat\n"]
)
def test_yolo_class_names_from_yaml(tmp_path: Path, text: str) -> None:
    write_yolo(tmp_path, {"a": "1 0.5 0.5 0.5 0.25"})
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text(text)
    assert read(tmp_path, "yolo").class_names == ("cat", "dog")


@pytest.mark.parametrize("text", ["names: cat", "names: {1: cat}", "[", "nc: 2", "names: [no]"])
def test_yolo_class_files_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.25"})
    (tmp_path / "data.yaml").write_text(text)
    assert "data.yaml" in fails(tmp_path, "yolo", class_file="data.yaml")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0 0.5 0.5 0.5", "expected 5 columns (class cx cy w h), got 4"),
        ("0 0.5 0.5 0.5 0.5 0.9", "got 6"),
        ("2 0.5 0.5 0.5 0.5", "expected a class index in 0..1, got 2"),
        ("-1 0.5 0.5 0.5 0.5", "class index"),
        ("0.5 0.5 0.5 0.5 0.5", "class index"),
        ("0 nan 0.5 0.5 0.5", "expected fractions"),
        ("0 0.5 inf 0.5 0.5", "expected fractions"),
        ("0 320 240 20 20", "expected fractions of the image, got '0 320 240 20 20'"),
        ("cat 0.5 0.5 0.5 0.5", "expected 5 numbers"),
    ],
)
def test_yolo_faults_are_named(tmp_path: Path, row: str, said: str) -> None:
    write_yolo(tmp_path, {"a": f"0 0.5 0.5 0.5 0.5\n{row}\n"})
    message = fails(tmp_path, "yolo")
    assert said in message
    assert "a.txt line 2" in message
    records = read(tmp_path, "yolo", on_error="skip")
    assert len(records.labels) == 1
    assert dict(records.notes.skipped) == {"label row broken": 1}


def test_yolo_label_files_without_image(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5"})
    (tmp_path / "labels/train/classes.txt").write_text("cat\n")
    assert len(read(tmp_path, "yolo")) == 1
    (tmp_path / "labels/train/zz.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert "label file without an image: 1 (zz.txt)" in fails(tmp_path, "yolo")
