"""Which anchors of which cells learn which object, in YOLOv4.

Letters: N objects of the batch, L levels, A anchors per cell, M pairs of a prior and an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detcli.ops.boxes import MIN_UNION, box_centers
from detcli.ops.yolo import YoloLevel
from detcli.types import Target

NEIGHBOURS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))  # columns and rows from an object's cell


class Objects(NamedTuple):
    """The objects of a batch: image (N,) int64, labels (N,) int64, boxes (N, 4) xyxy pixels."""

    image: Tensor
    labels: Tensor
    boxes: Tensor


class Pairs(NamedTuple):
    """The positives of a level, (M,) int64 each; a prior can be there with several objects.

    image, anchor, row, column: the prior; object: row among the objects of the batch.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    object: Tensor

    @property
    def prior(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What indexes maps (B, A, h, w)."""
        return self.image, self.anchor, self.row, self.column


def join_objects(targets: Sequence[Target]) -> Objects:
    """The objects of all images, in order."""
    device = targets[0].boxes.device
    images = [
        torch.full((len(target.labels),), number, device=device)
        for number, target in enumerate(targets)
    ]
    return Objects(
        torch.cat(images),
        torch.cat([target.labels for target in targets]),
        torch.cat([target.boxes for target in targets]),
    )


@torch.no_grad()
def pairs_by_shape(
    objects: Objects, levels: Sequence[YoloLevel], grids: Sequence[tuple[int, int]], min_iou: float
) -> list[Pairs]:
    """Each object with the anchor of all levels that fits its shape best, and with all others
    whose IoU with it, both at one place, is above `min_iou`; in the cell of its centre (YOLOv4;
    Darknet's iou_thresh). Of equal anchors the first one is the best."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    anchors = torch.cat([level.sizes(sides) for level in levels])  # (L * A, 2)
    common = torch.minimum(sides[:, None], anchors).prod(dim=2)
    union = sides.prod(dim=1)[:, None] + anchors.prod(dim=1) - common
    iou = common / union.clamp(min=MIN_UNION)  # (N, L * A)
    chosen = iou > min_iou
    chosen[torch.arange(len(iou), device=iou.device), iou.argmax(dim=1)] = True
    centers = box_centers(objects.boxes)
    found, first = [], 0
    for level, grid in zip(levels, grids, strict=True):
        last = first + len(level.anchors)
        number, anchor = chosen[:, first:last].nonzero(as_tuple=True)
        cell = _inside((centers[number] / level.stride).long(), grid)
        found.append(Pairs(objects.image[number], anchor, cell[:, 1], cell[:, 0], number))
        first = last
    return found


@torch.no_grad()
def pairs_by_ratio(
    objects: Objects,
    levels: Sequence[YoloLevel],
    grids: Sequence[tuple[int, int]],
    max_ratio: float,
) -> list[Pairs]:
    """Each object with every anchor whose sides are less than `max_ratio` times longer or shorter
    than its own; in the cell of its centre and in the two neighbours that are nearest to it
    (WongKinYiu/PyTorch_YOLOv4)."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    found = []
    for level, (height, width) in zip(levels, grids, strict=True):
        ratio = sides[None] / level.sizes(sides)[:, None]  # (A, N, 2)
        fits = torch.maximum(ratio, 1 / ratio).amax(dim=2) < max_ratio
        anchor, number = fits.nonzero(as_tuple=True)
        center = (box_centers(objects.boxes) / level.stride)[number]
        end = center.new_tensor([width, height])
        near_start = (center % 1 < 0.5) & (center > 1)
        near_end = (center % 1 > 0.5) & (center < end - 1)
        taken = torch.cat([torch.ones_like(near_start[:, :1]), near_start, near_end], dim=1)
        neighbour, pair = taken.T.nonzero(as_tuple=True)
        steps = torch.tensor(NEIGHBOURS, device=center.device)
        # half a step in that direction: a centre that is nearest to that cell lands in it
        cell = _inside((center[pair] + steps[neighbour] * 0.5).long(), (height, width))
        anchor, number = anchor[pair], number[pair]
        found.append(Pairs(objects.image[number], anchor, cell[:, 1], cell[:, 0], number))
    return found


def _inside(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """cells (M, 2), columns and rows, moved inside a grid (height, width)."""
    limit = torch.tensor([grid[1], grid[0]], device=cells.device) - 1
    return torch.minimum(cells.clamp(min=0), limit)
