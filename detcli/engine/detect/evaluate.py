"""Run a detector over a data set and measure it: the same code in training and in `eval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detcli.data.loader import Loader
from detcli.data.records import Records
from detcli.data.windows import Windows
from detcli.engine.run import distributed
from detcli.engine.run.batch import autocast, network_input
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.run.methods import postprocess
from detcli.evaluation import CocoMetrics, evaluate_coco
from detcli.models.detector import Detector
from detcli.recipe import Recipe
from detcli.types import Candidates, Detections

COORDINATE_DECIMALS = 3  # thousandths of a pixel, and
SCORE_DECIMALS = 7  # float32's resolution: what a file holds is what was measured


@dataclass(frozen=True)
class Evaluation:
    """What a detector found in a data set, before and after suppression, and how good it is."""

    candidates: Detections
    detections: Detections
    metrics: CocoMetrics


def evaluate(
    detector: Detector, recipe: Recipe, records: Records, loader: Loader, ranks: Ranks, log: RunLog
) -> Evaluation | None:
    """Measure `detector` on a split; the result on rank 0, None on the others."""
    candidates = detect(detector, recipe, records, loader, ranks, log)
    if candidates is None:
        return None
    detections = postprocess(candidates, recipe.postprocess)
    return Evaluation(candidates, detections, evaluate_coco(records.ground_truth(), detections))


@torch.no_grad()
def detect(
    detector: Detector,
    recipe: Recipe,
    records: Records | Windows,
    loader: Loader,
    ranks: Ranks,
    log: RunLog,
    *,
    mirrored: bool = False,
) -> Detections | None:
    """The candidates of all images (or windows) in the order of `records`, gathered on rank 0.

    mirrored: the detector sees every image mirrored left-right; the boxes are mirrored back.
    """
    was_training = detector.training
    detector.eval()
    found: list[tuple[int, Detections]] = []
    batches = log.track(loader.start(0), "evaluate", len(loader))
    for batch in batches:
        images, targets = network_input(recipe, batch, ranks.device)
        sizes = [target.size for target in targets]
        if mirrored:
            images = mirror_images(images, sizes)
        with autocast(recipe, ranks.device):
            outputs = detector(images, sizes=sizes)
        per_image = detector.decode(outputs, sizes)
        if mirrored:
            per_image = [
                mirror_boxes(candidates, size[1])
                for candidates, size in zip(per_image, sizes, strict=True)
            ]
        for index, candidates, size in zip(batch.indices, per_image, sizes, strict=True):
            found.append((index, to_original(candidates, size, records.size(index))))
    detector.train(was_training)
    gathered = distributed.gather(found)
    if gathered is None:
        return None
    in_order = sorted((pair for part in gathered for pair in part), key=lambda pair: pair[0])
    return Detections.join([detections for _, detections in in_order])


def mirror_images(images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, 3, H, W): the valid part of each image mirrored left-right, its padding where it was."""
    mirrored = images.clone()
    for image, source, (height, width) in zip(mirrored, images, sizes, strict=True):
        image[:, :height, :width] = source[:, :height, :width].flip(-1)
    return mirrored


def mirror_boxes(candidates: Candidates, width: int) -> Candidates:
    """Candidates found in a mirrored image of `width` pixels, as in the image itself."""
    left, top, right, bottom = candidates.boxes.unbind(1)
    extra = dict(candidates.extra)
    if "sigma" in extra:
        extra["sigma"] = extra["sigma"][:, [2, 1, 0, 3]]
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    return replace(candidates, boxes=boxes, extra=extra)


def to_original(
    candidates: Candidates, size: tuple[int, int], original: tuple[int, int]
) -> Detections:
    """From pixels of the network input to pixels of the original image: the only crossing.

    size and original are (height, width) of the resized and of the original image. Coordinates
    are rounded to thousandths of a pixel and scores to 7 decimals, so that numbers computed in
    memory and from a written file are the same.
    """
    boxes = candidates.boxes.float().cpu().numpy().astype(np.float64)  # (N, 4) xyxy
    scale = np.array([original[1] / size[1], original[0] / size[0]] * 2)
    boxes = boxes * scale
    boxes[:, 2:] -= boxes[:, :2]
    scores = candidates.scores.float().cpu().numpy().astype(np.float64)
    extra = {
        name: column.float().cpu().numpy().astype(np.float64)
        for name, column in candidates.extra.items()
    }
    if "sigma" in extra:
        extra["sigma"] = extra["sigma"] * scale
    return Detections(
        offsets=np.array([0, len(boxes)], np.int64),
        boxes_xywh=np.round(boxes, COORDINATE_DECIMALS),
        scores=np.round(scores, SCORE_DECIMALS),
        labels=candidates.labels.cpu().numpy().astype(np.int64),
        extra=extra,
    )
