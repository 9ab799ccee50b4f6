"""Random data sets, and pycocotools' opinion of them, fed as its own users feed it."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detcli.types import Detections, GroundTruth
from tests.paths import FIXTURES

COCO100 = FIXTURES / "coco100"
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def ground_truth_of(image_ids, images, boxes, labels, *, area, crowd, difficult, num_classes):
    """A GroundTruth from objects in any order of images."""
    order = np.argsort(images, kind="stable")
    counts = np.bincount(np.asarray(images, np.int64), minlength=len(image_ids))
    return GroundTruth(
        image_ids=np.asarray(image_ids, np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xywh=np.asarray(boxes, np.float64).reshape(-1, 4)[order],
        labels=np.asarray(labels, np.int64)[order],
        area=np.asarray(area, np.float64)[order],
        crowd=np.asarray(crowd, bool)[order],
        difficult=np.asarray(difficult, bool)[order],
        class_names=tuple(f"class {i}" for i in range(num_classes)),
        category_ids=tuple(range(90, 90 - 7 * num_classes, -7)),  # gaps, descending
    )


def detections_of(num_images, images, boxes, labels, scores):
    order = np.argsort(images, kind="stable")
    counts = np.bincount(np.asarray(images, np.int64), minlength=num_images)
    return Detections(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xywh=np.asarray(boxes, np.float64).reshape(-1, 4)[order],
        scores=np.asarray(scores, np.float64)[order],
        labels=np.asarray(labels, np.int64)[order],
    )


@st.composite
def small_data_sets(draw):
    """A few boxes on a coarse grid: equal IoUs, equal scores, duplicates and gaps abound.

    The unit of 16 pixels puts areas on both sides of, and exactly at, COCO's limits.
    """
    num_images = draw(st.integers(1, 4))
    num_classes = draw(st.integers(1, 3))
    image_ids = draw(
        st.lists(st.integers(0, 50), min_size=num_images, max_size=num_images, unique=True)
    )
    corner, length = st.integers(0, 4), st.integers(1, 8)
    box = st.tuples(corner, corner, length, length)
    image, label = st.integers(0, num_images - 1), st.integers(0, num_classes - 1)
    flag = st.sampled_from([False] * 5 + [True])
    objects = draw(
        st.lists(
            st.tuples(image, box, label, st.sampled_from([0.25, 1, 1, 4]), flag, flag), max_size=12
        )
    )
    scores = st.sampled_from([0.0, 0.1, 0.5, 0.5, 0.9, 1.0])
    found = draw(st.lists(st.tuples(image, box, label, scores), max_size=25))
    columns = list(zip(*objects, strict=True)) or [()] * 6
    boxes = 16.0 * np.asarray(columns[1], np.float64).reshape(-1, 4)
    ground_truth = ground_truth_of(
        image_ids,
        columns[0],
        boxes,
        columns[2],
        area=boxes[:, 2] * boxes[:, 3] * np.asarray(columns[3]),
        crowd=columns[4],
        difficult=columns[5],
        num_classes=num_classes,
    )
    columns = list(zip(*found, strict=True)) or [()] * 4
    boxes = 16.0 * np.asarray(columns[1], np.float64).reshape(-1, 4)
    return ground_truth, detections_of(num_images, columns[0], boxes, columns[2], columns[3])


def large_data_set(seed, num_images=20, num_classes=5, boxes_per_image=300):
    """Jittered copies of the objects among random boxes; one class gets most of them, so that
    many images hold over 100 detections of a class."""
    rng = np.random.default_rng(seed)
    num_objects, num_boxes = 8 * num_images, boxes_per_image * num_images
    images = rng.integers(0, num_images, num_objects)
    sizes = rng.lognormal(4, 1, (num_objects, 2)).clip(4, 400)
    boxes = np.concatenate([rng.uniform(0, 400, (num_objects, 2)), sizes], 1)
    labels = rng.integers(0, num_classes - 1, num_objects)  # the last class has no object
    labels[rng.random(num_objects) < 0.5] = 0
    ground_truth = ground_truth_of(
        rng.permutation(num_images) * 3 + 1,
        images,
        boxes,
        labels,
        area=sizes.prod(1) * rng.uniform(0.5, 1, num_objects),
        crowd=rng.random(num_objects) < 0.08,
        difficult=rng.random(num_objects) < 0.08,
        num_classes=num_classes,
    )
    source = rng.integers(0, num_objects, num_boxes)
    near = rng.random(num_boxes) < 0.5
    jitter = rng.normal(0, 0.08, (num_boxes, 4)) * np.tile(sizes[source], 2)
    random_boxes = np.concatenate(
        [rng.uniform(0, 400, (num_boxes, 2)), rng.lognormal(4, 1, (num_boxes, 2))], 1
    )
    found = np.where(near[:, None], boxes[source] + jitter, random_boxes)
    found[:, 2:] = found[:, 2:].clip(1)
    correct = near & (rng.random(num_boxes) < 0.8)
    found_labels = np.where(correct, labels[source], rng.integers(0, num_classes, num_boxes))
    return ground_truth, detections_of(
        num_images, images[source], found, found_labels, np.round(rng.random(num_boxes), 2)
    )


def read_coco100():
    """The known-answers set of 100 COCO images: crowds, ten of 80 classes without an object."""
    truth = json.loads((COCO100 / "instances_val2014_100.json").read_text())
    results = json.loads((COCO100 / "instances_val2014_fakebbox100_results.json").read_text())
    position = {image["id"]: n for n, image in enumerate(truth["images"])}
    label = {category["id"]: n for n, category in enumerate(truth["categories"])}
    objects = truth["annotations"]
    ground_truth = ground_truth_of(
        [image["id"] for image in truth["images"]],
        [position[a["image_id"]] for a in objects],
        [a["bbox"] for a in objects],
        [label[a["category_id"]] for a in objects],
        area=[a["area"] for a in objects],
        crowd=[a["iscrowd"] for a in objects],
        difficult=[False] * len(objects),
        num_classes=len(label),
    )
    detections = detections_of(
        len(position),
        [position[r["image_id"]] for r in results],
        [r["bbox"] for r in results],
        [label[r["category_id"]] for r in results],
        [r["score"] for r in results],
    )
    return ground_truth, detections


def run_pycocotools(ground_truth: GroundTruth, detections: Detections) -> COCOeval:
    """An evaluation, accumulated and summarised. Object ids start at 1, in our row order."""
    # pycocotools has no difficult objects; an area beyond every range has the same effect.
    hidden = ground_truth.difficult & ~ground_truth.crowd
    truth = COCO()
    truth.dataset = {
        "images": [{"id": int(i)} for i in ground_truth.image_ids],
        "categories": [{"id": i} for i in ground_truth.category_ids],
        "annotations": [
            {
                "id": n + 1,
                "image_id": int(ground_truth.image_ids[image]),
                "category_id": ground_truth.category_ids[ground_truth.labels[n]],
                "bbox": ground_truth.boxes_xywh[n].tolist(),
                "area": 1e12 if hidden[n] else float(ground_truth.area[n]),
                "iscrowd": int(ground_truth.crowd[n]),
            }
            for n, image in enumerate(ground_truth.image_index)
        ],
    }
    results = [
        {
            "image_id": int(ground_truth.image_ids[image]),
            "category_id": ground_truth.category_ids[detections.labels[n]],
            "bbox": detections.boxes_xywh[n].tolist(),
            "score": float(detections.scores[n]),
        }
        for n, image in enumerate(detections.image_index)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:  # loadRes raises IndexError on an empty list
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
