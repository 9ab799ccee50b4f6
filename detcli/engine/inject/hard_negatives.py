"""What a detector took for objects, and real objects, cut out as patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from detcli.data.dataset import DetectionDataset
from detcli.data.records import Records
from detcli.data.transforms import Pipeline, Sample
from detcli.data.transforms.paste import overlaps
from detcli.data.transforms.patches import Patch, Patches, cut_patch, is_whole
from detcli.data.transforms.poisson import blendable
from detcli.data.transforms.small import boxes_of
from detcli.engine.run.log import RunLog
from detcli.evaluation import match
from detcli.evaluation.curves import verdicts
from detcli.ops.boxes import pairwise_iou
from detcli.types import Detections

if TYPE_CHECKING:
    from detcli.types import FloatArray

MIN_SIDE_PX = 4
"""Of a narrower box nothing can be recognised."""

_SAME_IOU = 0.5
"""Wrong detections that overlap more are one place, detected as several classes."""


class _Cut(NamedTuple):
    """A box to be cut out: its image, xyxy pixels, class (None: none) and score (None: none)."""

    image: int
    box: torch.Tensor
    label: int | None
    score: float | None


def collect(
    records: Records,
    detections: Detections,
    log: RunLog,
    *,
    min_score: float,
    max_patches: int,
    seed: int,
) -> Patches:
    """The wrong detections and the objects of a split as patches, at most this many of each: the
    wrong detections of the highest scores, and objects drawn by `seed`.

    Raises DataError for an image that cannot be read.
    """
    wrong = wrong_detections(records, detections, min_score)[:max_patches]
    objects = _objects(records)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(objects))[:max_patches])
    load = DetectionDataset(records, Pipeline([]), seed=0).load
    cuts = [*wrong, *(objects[int(row)] for row in chosen)]
    by_image: dict[int, list[int]] = {}
    for position, cut in enumerate(cuts):
        by_image.setdefault(cut.image, []).append(position)
    patches: dict[int, Patch] = {}
    for image in log.track(sorted(by_image), "cut out", len(by_image), unit="images"):
        source = load(image)
        for position in by_image[image]:
            patches[position] = _patch(source, cuts[position], position, records.path(image))
    ordered = [patches[position] for position in range(len(cuts))]
    return Patches(tuple(ordered[: len(wrong)]), tuple(ordered[len(wrong) :]), records.class_names)


def wrong_detections(records: Records, detections: Detections, min_score: float) -> list[_Cut]:
    """False positives (at IoU 0.5) that touch neither an annotated box nor the border of their
    image, best score first.

    A badly placed or a second detection of an object shows that object, and must not become an
    example of what is none; so must nothing that reaches into an ignored region. Of detections of
    one place, whatever their classes, the best one counts.
    """
    truth = records.ground_truth()
    table = match(truth, detections)
    _, false = verdicts(table, 0, slice(None))
    rows = table.rows[false & (table.scores >= min_score)]
    rows = rows[np.lexsort((rows, -detections.scores[rows]))]
    kept: dict[int, list[torch.Tensor]] = {}
    found = []
    for image, row in zip(detections.image_index[rows].tolist(), rows.tolist(), strict=True):
        box = _inside(detections.boxes_xywh[row], records.size(image))
        annotated = boxes_of(records, image)[0].float()
        usable = is_whole(box, records.size(image)) and not _too_narrow(box)
        if not usable or overlaps(annotated, box).any():
            continue
        earlier = kept.setdefault(image, [])
        if earlier and (pairwise_iou(box[None], torch.stack(earlier)) > _SAME_IOU).any():
            continue
        earlier.append(box)
        found.append(_Cut(image, box, None, float(detections.scores[row])))
    return found


def _inside(box_xywh: FloatArray, size: tuple[int, int]) -> torch.Tensor:
    left, top, width, height = box_xywh.tolist()
    corners = torch.tensor([left, top, left + width, top + height], dtype=torch.float32)
    limit = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    return corners.clamp(min=0).minimum(limit)


def _too_narrow(box: torch.Tensor) -> bool:
    return bool((box[2:] - box[:2] < MIN_SIDE_PX).any())


def _objects(records: Records) -> list[_Cut]:
    """Objects that touch neither another box nor the border."""
    found = []
    for image in range(len(records)):
        boxes, ignore = boxes_of(records, image)
        labels = records.labels[records.rows(image)]
        found += [
            _Cut(image, boxes[row].float(), int(labels[row]), None)
            for row in blendable(boxes.float(), ignore, records.size(image))
            if not _too_narrow(boxes[row])
        ]
    return found


def _patch(source: Sample, cut: _Cut, position: int, path: str) -> Patch:
    kind = "wrong" if cut.label is None else "object"
    return cut_patch(
        source,
        cut.box,
        cut.label,
        name=f"{kind}_{position + 1:05d}.png",
        path=path,
        score=cut.score,
    )
