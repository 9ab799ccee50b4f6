"""Each reader on small data of known content: what is kept, dropped, refused, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detcli.data.dataset import DetectionDataset
from detcli.data.read import read_records
from detcli.data.records import Records
from detcli.data.transforms import build_transforms
from detcli.errors import DataError
from tests.data.build import (
    coco_content,
    voc_xml,
    write_coco,
    write_image,
    write_voc,
    write_yolo,
)

COCO = {"annotations": "train.json", "images": "images"}
WHOLE = {"short": [40], "long": 60, "pick": "choice", "eval_short": None}
YOLO = {"images": "images/train", "labels": "labels/train"}


def read(root: Path, format: str, **options: Any) -> Records:
    split = {"coco": COCO, "voc": {"split": "train"}, "yolo": YOLO}[format]
    return read_records(format=format, root=str(root), split=split, name="train", **options)


def fails(root: Path, format: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(root, format, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- COCO


def test_coco_ids_are_remapped_and_kept(tmp_path: Path) -> None:
    write_coco(tmp_path)
    records = read(tmp_path, "coco")
    assert records.class_names == ("dog", "cat", "cow")  # ascending id
    assert records.category_ids == (0, 7, 90)
    assert records.image_ids.tolist() == [0, 10, 20]
    assert records.offsets.tolist() == [0, 2, 3, 3]
    assert records.labels.tolist() == [1, 0, 1]
    assert records.boxes_xywh.tolist() == [[1, 2, 20, 10], [5, 5, 30, 30], [2, 2, 20, 10]]
    assert records.crowd.tolist() == [False, True, False]
    assert records.area.tolist() == [200, 500, 200]  # the file's own where it has one
    assert records.notes.images_without_objects == 1
    assert records.notes.classes_without_boxes == ("cow",)
    assert "images without objects, kept: 1" in records.notes.sentences()


def test_coco_images_are_ordered_by_id(tmp_path: Path) -> None:
    content = coco_content()
    content["images"].reverse()
    write_coco(tmp_path, content)
    records = read(tmp_path, "coco")
    assert records.image_ids.tolist() == [0, 10, 20]
    assert records.path(1) == str(tmp_path / "images" / "1.jpg")
    assert records.size(1) == (40, 60)


def test_coco_boxes_are_clipped_dropped_and_counted(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"] = [
        {"image_id": 0, "category_id": 7, "bbox": [50, 30, 20, 20]},  # over the corner
        {"image_id": 0, "category_id": 7, "bbox": [5, 5, 0, 10]},
        {"image_id": 0, "category_id": 7, "bbox": [5, 5, 10, -3]},
        {"image_id": 0, "category_id": 7, "bbox": [100, 100, 5, 5]},  # outside
        {"image_id": 0, "category_id": 7, "bbox": [0, 0, 60.0001, 40]},  # rounding
        {"image_id": 0, "category_id": 7, "bbox": [-1e300, 0, 1e308, 1e308]},
    ]
    write_coco(tmp_path, content)
    records = read(tmp_path, "coco")
    assert records.boxes_xywh.tolist() == [[50, 30, 10, 10], [0, 0, 60.0001, 40], [0, 0, 60, 40]]
    transforms = build_transforms(resize=WHOLE, augment={}, train=False)
    sample = DetectionDataset(records, transforms, seed=0).load(0)
    assert sample.boxes.tolist() == [[50, 30, 60, 40], [0, 0, 60, 40], [0, 0, 60, 40]]
    assert records.notes.degenerate_boxes == 3
    assert records.notes.clipped_boxes == 2


def test_coco_boxes_keep_every_digit(tmp_path: Path) -> None:
    """pycocotools multiplies width and height as they stand in the file."""
    box = [0.1, 0.2, 0.30000000000000004, 17.7]
    content = coco_content()
    content["annotations"] = [{"image_id": 0, "category_id": 7, "bbox": box}]
    write_coco(tmp_path, content)
    assert read(tmp_path, "coco").boxes_xywh.tolist() == [box]


def test_coco_difficult_is_read_and_is_no_crowd(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"] = [
        {"image_id": 0, "category_id": 7, "bbox": [5, 5, 9, 9], "iscrowd": 1, "difficult": 1},
        {"image_id": 0, "category_id": 7, "bbox": [5, 5, 9, 9], "iscrowd": 1},
    ]
    write_coco(tmp_path, content)
    records = read(tmp_path, "coco")
    assert records.difficult.tolist() == [True, False]
    assert records.crowd.tolist() == [False, True]


def test_a_choice_of_classes_keeps_the_images(tmp_path: Path) -> None:
    write_coco(tmp_path)
    records = read(tmp_path, "coco", classes=["cow", "dog"])
    assert records.class_names == ("cow", "dog")
    assert records.category_ids == (90, 0)
    assert len(records) == 3
    assert records.labels.tolist() == [1]
    assert records.notes.other_class_boxes == 2


@pytest.mark.parametrize(
    ("classes", "said"), [(["catt"], "nearest name is 'cat'"), ("cat", "list of names"), ([], "[]")]
)
def test_class_slips_are_refused(tmp_path: Path, classes: Any, said: str) -> None:
    write_coco(tmp_path)
    assert said in fails(tmp_path, "coco", classes=classes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["annotations"][1].pop("bbox"),
            "annotations[1]: Object missing required field `bbox`",
        ),
        (
            lambda c: c["annotations"][2].update(bbox=[1, 2, 3]),
            "annotations[2].bbox: Expected `array` of length 4",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1, "2", 3, 4]),
            "annotations[0].bbox[1]: Expected `float`, got `str`",
        ),
        (lambda c: c["images"][2].update(id="a"), "images[2].id: Expected `int`, got `str`"),
        (lambda c: c["images"][2].update(id=10), "images: expected every id once, got 10 twice"),
        (lambda c: c["images"][2].update(id=2**80), "images"),
        (lambda c: c["categories"][0].update(name="dog"), "categories: expected every name once"),
        (lambda c: c.pop("categories"), "missing required field `categories`"),
        (lambda c: c.update(categories=[]), "categories: expected at least one"),
        (lambda c: c.update(images=[], annotations=[]), "at least one usable image"),
        (
            lambda c: c["annotations"][0].update(area=-5),
            "area is not a size: 1 (annotations[0]: area -5",
        ),
        (lambda c: c["annotations"][0].update(image_id=11), "annotation of an unknown image: 1"),
        (lambda c: c["annotations"][0].update(category_id=1), "annotation of an unknown class: 1"),
        (lambda c: c["images"][0].update(width=61), "declared 61x40, real 60x40"),
        (lambda c: c["images"][0].update(file_name="x.jpg"), "image file missing: 1 (x.jpg)"),
        (lambda c: c["images"][0].update(file_name="a\0b\n"), "image file"),
    ],
)
def test_coco_faults_are_named(tmp_path: Path, change: Any, said: str) -> None:
    content = coco_content()
    change(content)
    write_coco(tmp_path, content)
    message = fails(tmp_path, "coco")
    assert said in message
    assert "train.json" in message


def test_json_syntax_errors_give_the_line(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "train.json").write_text('{"images": [],\n "annotations":\n [{"area": NaN}]}')
    message = fails(tmp_path, "coco")
    assert "line 3" in message
    assert "no NaN" in message


def test_all_faults_are_listed_with_ten_places_and_a_number(tmp_path: Path) -> None:
    write_coco(tmp_path, num_images=30)
    for i in range(14):
        (tmp_path / "images" / f"{i}.jpg").unlink()
    (tmp_path / "images" / "20.jpg").write_bytes(b"no image")
    message = fails(tmp_path, "coco")
    assert "image file missing: 14 (0.jpg, 1.jpg," in message
    assert "9.jpg, and 4 more)" in message
    assert "10.jpg" not in message
    assert "image file broken: 1 (20.jpg" in message
    assert "data.on_error=skip" in message


def test_skip_leaves_out_and_counts(tmp_path: Path) -> None:
    content = coco_content(5)
    content["annotations"].append({"image_id": 999, "category_id": 7, "bbox": [0, 0, 5, 5]})
    write_coco(tmp_path, content, num_images=5)
    (tmp_path / "images" / "1.jpg").unlink()
    whole = (tmp_path / "images" / "2.jpg").read_bytes()
    (tmp_path / "images" / "2.jpg").write_bytes(whole[: len(whole) - 300])  # header intact
    records = read(tmp_path, "coco", on_error="skip")
    assert records.image_ids.tolist() == [0, 30, 40]
    assert records.offsets.tolist() == [0, 2, 3, 3]
    assert dict(records.notes.skipped) == {
        "annotation of an unknown image": 1,
        "image file missing": 1,
        "image file broken": 1,
    }
    assert "left out (on_error: skip), image file missing: 1" in records.notes.sentences()


def test_annotations_alone_are_enough_for_evaluation(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(coco_content()))
    split = {"annotations": "train.json", "images": None}
    records = read_records(format="coco", root=str(tmp_path), split=split, name="val")
    truth = records.ground_truth()
    assert truth.num_images == 3
    assert truth.crowd.tolist() == [False, True, False]


# --- EXIF orientation against declared sizes


@pytest.mark.parametrize(
    ("declared", "apply", "size"),
    [((60, 40), True, (60, 40)), ((40, 60), False, (40, 60)), ((None, None), True, (60, 40))],
)
def test_declared_size_decides_whether_exif_is_applied(
    tmp_path: Path, declared: Any, apply: bool, size: tuple[int, int]
) -> None:
    content = coco_content(1)
    content["images"][0].update(height=declared[0], width=declared[1])
    write_coco(tmp_path, content, num_images=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown upright
    write_image(tmp_path / "images" / "0.jpg", (40, 60), exif=exif)
    records = read(tmp_path, "coco")
    assert records.apply_exif.tolist() == [apply]
    assert records.size(0) == size
    assert records.notes.exif_rotated == apply
    assert records.notes.exif_ignored == (not apply)


# --- VOC


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


# --- YOLO


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


# --- the entry


@pytest.mark.parametrize(
    ("format", "split", "said"),
    [
        ("coco", {"images": "images"}, "needs annotations"),
        ("yolo", None, "needs images and labels"),
        ("pickle", COCO, "expected coco, voc, yolo or shapes"),
        ("shapes", None, "train and val"),
    ],
)
def test_read_records_says_what_it_needs(
    tmp_path: Path, format: str, split: Any, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_records(format=format, root=str(tmp_path), split=split, name="test")


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_missing_roots_are_one_line(tmp_path: Path, format: str) -> None:
    assert str(tmp_path / "nowhere") in fails(tmp_path / "nowhere", format)
