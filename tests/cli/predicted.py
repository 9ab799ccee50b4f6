"""A data set on disk with the candidates that several imperfect models found in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from detcli.predictions import PredictionsMeta, write_predictions
from detcli.types import Detections, GroundTruth

CLASSES = ("cell", "platelet")


def write_data_set(folder: Path, *, num_images: int = 40, seed: int = 0) -> GroundTruth:
    """truth.json in `folder`: a few objects of two classes on each 400 x 300 image."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 7, num_images)
    total = int(counts.sum())
    sizes = rng.uniform(20, 90, (total, 2))
    boxes = np.round(np.column_stack([rng.uniform(0, 1, (total, 2)) * [300, 200], sizes]), 2)
    labels = rng.integers(0, 2, total)
    image = np.repeat(np.arange(num_images), counts)
    document = {
        "images": [
            {"id": 10 * index, "file_name": f"{index}.jpg", "height": 300, "width": 400}
            for index in range(num_images)
        ],
        "categories": [{"id": 3, "name": CLASSES[0]}, {"id": 8, "name": CLASSES[1]}],
        "annotations": [
            {
                "id": row + 1,
                "image_id": 10 * int(image[row]),
                "bbox": boxes[row].tolist(),
                "category_id": (3, 8)[labels[row]],
            }
            for row in range(total)
        ],
    }
    (folder / "truth.json").write_text(json.dumps(document))
    from detcli.data.formats.coco import read_coco

    return read_coco("", {"annotations": str(folder / "truth.json")}).ground_truth()


def find_candidates(truth: GroundTruth, *, noise_px: float, seed: int) -> Detections:
    """Five jittered boxes per object, and as many in the background, as a detector without
    suppression gives them."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(len(truth.labels)), 5)
    near = truth.boxes_xywh[rows] + rng.normal(0, noise_px, (len(rows), 4))
    far = truth.boxes_xywh[rows] + rng.uniform(-90, 90, (len(rows), 4))
    boxes = np.concatenate([near, far])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 2)
    error = np.abs(near - truth.boxes_xywh[rows]).max(axis=1)
    scores = np.concatenate(
        [np.exp(-error / 15) * rng.uniform(0.5, 1, len(rows)), rng.uniform(0.06, 0.4, len(rows))]
    )
    image = np.tile(truth.image_index[rows], 2)
    order = np.argsort(image, kind="stable")
    counts = np.bincount(image, minlength=truth.num_images)
    return Detections(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xywh=np.round(boxes[order], 3),
        scores=np.round(scores[order], 7),
        labels=np.tile(truth.labels[rows], 2)[order],
    )


def write_candidates(
    folder: Path,
    name: str,
    truth: GroundTruth,
    *,
    noise_px: float = 4.0,
    seed: int = 0,
    postprocess: dict | None = None,
) -> Path:
    """A predictions file of candidates that names truth.json."""
    meta = PredictionsMeta(
        kind="candidates",
        ground_truth=str(folder / "truth.json"),
        model="atss",
        score_threshold=0.05,
        postprocess=postprocess,
    )
    found = find_candidates(truth, noise_px=noise_px, seed=seed)
    write_predictions(folder / name, found, truth, meta)
    return folder / name
