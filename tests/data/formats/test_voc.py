"""Pascal VOC files of known content."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.build import voc_xml, write_voc
from tests.data.reading import fails, read


def test_voc_corners_are_one_based_and_inclusive(tmp_path: Path) -> None:
    objects = [
        ("dog", (1, 1, 60, 40), 0),  # the whole image
        ("cat", (11, 5, 20, 14.5), 1),
        ("dog", (0, 0, 10, 10), 0),  # a tool that counts from 0
        ("dog", (5, 5, 5, 9), 0),  # no width as written
        ("dog", (50, 30, 90, 35), 0),
    ]
    write_voc(tmp_path, {"a": voc_xml(objects), "b": voc_xml([])})
    records = read(tmp_path, "voc")
    assert records.class_names == ("cat", "dog")
    assert records.category_ids == (1, 2)
    assert records.boxes_xywh.tolist() == [
        [0, 0, 60, 40],
        [10, 4, 10, 10.5],
        [0, 0, 10, 10],
        [49, 29, 11, 6],
    ]
    assert records.difficult.tolist() == [False, True, False, False]
    assert records.notes.degenerate_boxes == 1
    assert records.notes.clipped_boxes == 1
    assert records.notes.images_without_objects == 1


def test_voc_labels_agree_between_splits(tmp_path: Path) -> None:
    write_voc(tmp_path, {"v": voc_xml([("ant", (1, 1, 5, 5), 0)])}, split="val")
    write_voc(tmp_path, {"t": voc_xml([("bee", (1, 1, 5, 5), 0)])})
    train = read(tmp_path, "voc")
    assert train.class_names == ("ant", "bee")
    assert train.labels.tolist() == [1]
    assert train.notes.classes_without_boxes == ("ant",)


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("", "not valid XML"),
        ("<annotation><object></annotation>", "not valid XML"),
        ("<annotation><object></object></annotation>", "object 1: expected a name"),
        (
            "<annotation><object><name>x</name></object></annotation>",
            "object 1 (x): expected a bndbox",
        ),
        (voc_xml([("x", (1, 2, "nan", 4), 0)]), "object 1: xmax: expected a number, got 'nan'"),
        (voc_xml([("x", (1, 2, "1e999", 4), 0)]), "xmax: expected a number"),
        (voc_xml([("x", (1, "", 3, 4), 0)]), "ymin: expected a number"),
        (voc_xml([("x", (1, 2, 3, 4), 7)]), "difficult: expected 0 or 1, got '7'"),
        (voc_xml([], size=(40, -1)), "size: width"),
        (voc_xml([], size=(44, 60)), "declared 60x44, real 60x40"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "entities are not accepted"),
    ],
)
def test_voc_faults_are_named(tmp_path: Path, xml: str, said: str) -> None:
    write_voc(tmp_path, {"a": xml, "b": voc_xml([("dog", (1, 1, 5, 5), 0)])})
    message = fails(tmp_path, "voc")
    assert said in message
    assert "a" in message
    assert len(read(tmp_path, "voc", on_error="skip")) == 1


def test_voc_missing_files_are_named(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml([("dog", (1, 1, 5, 5), 0)]), "b": voc_xml([]), "c": ""})
    (tmp_path / "JPEGImages/b.jpg").unlink()
    (tmp_path / "Annotations/c.xml").unlink()
    message = fails(tmp_path, "voc")
    assert "image file missing: 1 (b.jpg)" in message
    assert "annotation file missing: 1 (Annotations/c.xml)" in message
    (tmp_path / "ImageSets/Main/train.txt").unlink()
    assert "train.txt: cannot be read" in fails(tmp_path, "voc")
