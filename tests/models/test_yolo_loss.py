"""Darknet's loss as a loop, and what both losses of YOLOv4 share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from detcli.assign.yolo import join_objects, pairs_by_shape
from detcli.losses.box import ciou_terms
from detcli.models.yolov4 import YOLOv4Outputs
from detcli.ops.boxes import pairwise_iou
from tests.models.small_yolov4 import ANCHORS, CANVAS, CLASSES, small, some_case
from tests.models.specs import target

UNIT = torch.tensor([96, 64, 96, 64]) / 1000  # Darknet's boxes are shares of the image's sides


def cross_entropy(logit: float, wanted: float) -> float:
    return max(logit, 0) - logit * wanted + math.log1p(math.exp(-abs(logit)))


def plain_darknet(model: nn.Module, outputs: YOLOv4Outputs, targets: list) -> dict[str, float]:
    """Cell by cell, as its C code goes about it."""
    terms = {"box": 0.0, "objectness": 0.0, "class": 0.0}
    grids = [tuple(raw.shape[2:]) for raw in outputs.raw]
    objects = join_objects(targets)
    found = pairs_by_shape(objects, model.levels, grids, 0.213)
    for raw, level, pairs in zip(outputs.raw, model.levels, found, strict=True):
        parts = level.split(raw)
        boxes = level.decode(parts[:, :, :4], "exp")
        of_prior: dict[tuple[int, ...], list[int]] = {}
        for *prior, number in zip(*(column.tolist() for column in pairs), strict=True):
            of_prior.setdefault(tuple(prior), []).append(number)
        for prior in np.ndindex(boxes.shape[:-1]):
            image, anchor, row, column = prior
            values = parts[image, anchor, :, row, column]
            mine, box = of_prior.get(prior, []), boxes[prior][None]
            iou = pairwise_iou(box, targets[image].boxes).max().item()
            sure = values[5:].sigmoid().max() > 0.25
            if mine or not (iou > 0.7 and sure):
                terms["objectness"] += cross_entropy(values[4].item(), float(bool(mine)))
            if not mine:
                continue
            classes = {int(objects.labels[number]) for number in mine}
            for label in range(CLASSES):
                terms["class"] += cross_entropy(values[5 + label].item(), float(label in classes))
            for number in mine:
                theirs = objects.boxes[number][None]
                loss = ciou_terms(box / UNIT, theirs / UNIT).item()
                terms["box"] += 0.07 * loss / len(classes)
    return {name: value / len(targets) for name, value in terms.items()}


@pytest.mark.parametrize("seed", range(3))
def test_darknets_loss_equals_a_plain_loop(seed: int) -> None:
    model = small(ANCHORS)
    outputs, targets = some_case(seed)
    # a box that is nearly an object's and sure of some class is no background
    with torch.no_grad():
        parts = model.levels[0].split(outputs.raw[0])
        parts[1, 0, :, 1, 2] = torch.tensor([0.0, 0, 0.75, 0.75, 2, 3, -3, -3])
        targets[1] = target([[5.0, 5, 25, 25], [10.0, 2, 31, 23]], [1, 0], CANVAS)
    want = plain_darknet(model, outputs, targets)
    got = model.loss(outputs, targets)
    for name, value in want.items():
        assert got[name].item() == pytest.approx(value, rel=1e-4), name


def test_a_good_box_is_no_background() -> None:
    """A prior beside the object's cell whose box is nearly the object."""
    model = small(ANCHORS)
    outputs, _ = some_case(0)
    parts = model.levels[0].split(outputs.raw[0])
    cell = (1, 1, slice(None), 2, 5)  # centre at (44, 20), anchor of 12 x 20 pixels
    parts[cell] = torch.tensor([-3.0, 0, 0, 0, 8, 2, 2, 2])
    (x1, y1, x2, y2) = model.levels[0].decode(parts[:, :, :4], "exp")[1, 1, 2, 5].tolist()
    assert x1 + 6 < 41  # its own centre has left the middle of the cell
    moved = [[x1 - 1.2, y1, x2 - 1.2, y2]]  # centre in the cell to the left
    assert (moved[0][0] + moved[0][2]) / 2 < 40
    targets = [target([], [], CANVAS), target(moved, [0], CANVAS)]

    def objectness(logit: float, sureness: float) -> float:
        parts[cell][4], parts[cell][5:] = logit, sureness
        return float(model.loss(outputs, targets)["objectness"])

    assert objectness(8.0, 2.0) == pytest.approx(objectness(-8.0, 2.0))
    assert objectness(8.0, -3.0) > objectness(-8.0, -3.0) + 3  # sure of no class: background


@pytest.mark.parametrize("loss", ["darknet", "scaled"])
def test_ignored_regions_count_neither_way(loss: str) -> None:
    model = small({"loss": {"name": loss}}, ANCHORS)
    outputs, _ = some_case(0)
    region = [[40.0, 0, 96, 64]]
    one = [target([[5.0, 5, 25, 25]], [1], CANVAS, region), target([], [], CANVAS, region)]
    without = [target([[5.0, 5, 25, 25]], [1], CANVAS), target([], [], CANVAS)]
    spoiled = [raw.clone() for raw in outputs.raw]
    for raw, level in zip(spoiled, model.levels, strict=True):
        level.split(raw)[:, :, 4, :, -(-40 // level.stride) :] = 9.0
    before = model.loss(outputs, one)["objectness"]
    after = model.loss(YOLOv4Outputs(tuple(spoiled), CANVAS), one)["objectness"]
    torch.testing.assert_close(after, before)
    counted = model.loss(YOLOv4Outputs(tuple(spoiled), CANVAS), without)["objectness"]
    assert counted > 2 * before
