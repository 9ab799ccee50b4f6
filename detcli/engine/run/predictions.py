"""Predictions of a run on disk, with the ground truth they are to be measured against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from detcli.data.records import Records
from detcli.files import write_atomically
from detcli.predictions import PredictionsMeta, write_predictions
from detcli.recipe import Recipe
from detcli.types import Detections

GROUND_TRUTH = "ground_truth.json"


def write_measured(
    folder: Path,
    name: str,
    detections: Detections,
    records: Records,
    recipe: Recipe,
    kind: Literal["detections", "candidates"],
) -> Path:
    """Write `name` into `folder`, with its description, and beside it the annotations that it was
    measured against: the same images, classes and boxes, whatever format they came from."""
    truth = folder / GROUND_TRUTH
    if not truth.exists():
        write_atomically(truth, json.dumps(coco_document(records)))
    path = folder / name
    meta = prediction_meta(recipe, kind, ground_truth=str(truth.resolve()))
    write_predictions(path, detections, records.ground_truth(), meta)
    return path


def prediction_meta(
    recipe: Recipe, kind: Literal["detections", "candidates"], ground_truth: str | None = None
) -> PredictionsMeta:
    """What stands beside a predictions file of this recipe."""
    return PredictionsMeta(
        kind=kind,
        ground_truth=ground_truth,
        model=recipe.model.name,
        recipe=recipe.name,
        score_threshold=recipe.model.score_threshold,
        postprocess={"method": recipe.postprocess.method, **recipe.postprocess.acting_options()},
    )


def coco_document(records: Records) -> dict[str, Any]:
    """A record table as a COCO data set. Difficult objects carry `difficult`, which we read again,
    and `iscrowd`, which is the nearest thing that other tools know."""
    truth = records.ground_truth()
    images = [
        {"id": image_id, "file_name": records.name(index), "height": height, "width": width}
        for index, (image_id, (height, width)) in enumerate(
            zip(truth.image_ids.tolist(), records.sizes.tolist(), strict=True)
        )
    ]
    columns = zip(
        truth.image_ids[truth.image_index].tolist(),
        truth.labels.tolist(),
        truth.boxes_xywh.tolist(),
        truth.area.tolist(),
        truth.crowd.tolist(),
        truth.difficult.tolist(),
        strict=True,
    )
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": truth.category_ids[label],
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd or difficult),
            "difficult": int(difficult),
        }
        for number, (image_id, label, box, area, crowd, difficult) in enumerate(columns, 1)
    ]
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(truth.category_ids, truth.class_names, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
