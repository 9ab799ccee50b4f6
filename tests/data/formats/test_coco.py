"""COCO files of known content: what is kept, dropped, refused, and what is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detcli.data.dataset import DetectionDataset
from detcli.data.formats.read import read_records
from detcli.data.transforms import build_transforms
from tests.data.build import coco_content, write_coco, write_image
from tests.data.reading import fails, read
from tests.paths import FIXTURES

WHOLE = {"short": [40], "long": 60, "pick": "choice", "eval_short": None}


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
    assert any(re.fullmatch("images without .*: 1", line) for line in records.notes.sentences())


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
    ("classes", "said"), [(["catt"], "did you mean cat"), ("cat", "list of names"), ([], "[]")]
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
    assert any(line.endswith("image file missing: 1") for line in records.notes.sentences())


def test_annotations_alone_are_enough_for_evaluation(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps(coco_content()))
    split = {"annotations": "train.json", "images": None}
    records = read_records(format="coco", root=str(tmp_path), split=split, name="val")
    truth = records.ground_truth()
    assert truth.num_images == 3
    assert truth.crowd.tolist() == [False, True, False]


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


def test_coco_annotations_keep_the_published_answers() -> None:
    """pycocotools on what we read, not on the file, still gives the published numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder = FIXTURES / "coco100"
    records = read_records(
        format="coco",
        root=str(folder),
        split={"annotations": "instances_val2014_100.json", "images": None},
        name="val",
    )
    truth = records.ground_truth()
    assert (truth.num_images, len(truth.labels), truth.crowd.sum()) == (100, 839, 9)
    assert len(truth.class_names) == 80
    coco = COCO()
    coco.dataset = {
        "images": [{"id": int(i)} for i in truth.image_ids],
        "categories": [{"id": i} for i in truth.category_ids],
        "annotations": [
            {
                "id": row + 1,
                "image_id": int(truth.image_ids[truth.image_index[row]]),
                "category_id": truth.category_ids[truth.labels[row]],
                "bbox": truth.boxes_xywh[row].tolist(),
                "area": float(truth.area[row]),
                "iscrowd": int(truth.crowd[row]),
            }
            for row in range(len(truth.labels))
        ],
    }
    coco.createIndex()
    found = coco.loadRes(str(folder / "instances_val2014_fakebbox100_results.json"))
    evaluation = COCOeval(coco, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    expected = json.loads((folder / "expected.json").read_text())
    assert evaluation.stats.tolist() == pytest.approx(list(expected["bbox"].values()), abs=1e-10)
