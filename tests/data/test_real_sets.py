"""The readers on data that others made, against counts and numbers that others published."""

from __future__ import annotations

import json

import numpy as np
import pytest

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


def test_coco_annotations_keep_the_published_answers() -> None:
    """pycocotools on what we read, not on the file, still gives the published numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder = DATA / "known-answers-coco100"
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
