"""Priors: the anchor boxes and points that a dense head predicts from.

Letters: P priors of all levels, A priors per cell, L pyramid levels. Priors are ordered by level,
then row, then column; the A priors of one cell are adjacent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from detcli.types import check_shape


@dataclass(frozen=True)
class Priors:
    """Where a head predicts from, in pixels of the network input.

    boxes (P, 4) float32 xyxy anchor boxes; centers (P, 2) float32 x, y of the cells' points, which
    are the anchors' centres; strides (P,) float32 pixels between neighbouring cells;
    level_sizes: number of priors of each level, in the order of the rows; derived: what assigners
    have found out about these priors, so that they do so once for all images.
    """

    boxes: Tensor
    centers: Tensor
    strides: Tensor
    level_sizes: tuple[int, ...]
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        count = sum(self.level_sizes)
        check_shape("Priors.boxes", self.boxes, count, 4)
        check_shape("Priors.centers", self.centers, count, 2)
        check_shape("Priors.strides", self.strides, count)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def select(self, keep: Tensor) -> Priors:
        """The priors where `keep` (P,) bool is true, the same object where that is all of them;
        the levels stay apart."""
        parts = torch.split(keep, list(self.level_sizes))
        sizes = tuple(torch.stack([part.sum() for part in parts]).tolist())
        if sizes == self.level_sizes:
            return self
        return Priors(self.boxes[keep], self.centers[keep], self.strides[keep], sizes)

    def take(self, rows: Tensor) -> Priors:
        """The priors at positions `rows` (M,) int64, in that order, as a single level."""
        return Priors(self.boxes[rows], self.centers[rows], self.strides[rows], (rows.shape[0],))

    def split(self) -> list[Priors]:
        """The priors of each level."""
        ends = torch.tensor(self.level_sizes).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        return [
            Priors(
                self.boxes[start:end],
                self.centers[start:end],
                self.strides[start:end],
                (end - start,),
            )
            for start, end in zip(starts, ends, strict=True)
        ]


def anchor_shapes(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Corners (A, 4) of anchors around the origin, ratio-major: all sizes of the first ratio first.

    sizes: square roots of the anchors' areas in pixels; ratios: height / width. The sides are
    computed in float32 as size x (1 / sqrt(ratio), sqrt(ratio)).
    """
    side = torch.tensor(sizes, dtype=torch.float32)
    height = torch.tensor(ratios, dtype=torch.float32).sqrt()
    width = 1 / height
    half_width = (width[:, None] * side[None, :]).reshape(-1) / 2
    half_height = (height[:, None] * side[None, :]).reshape(-1) / 2
    return torch.stack([-half_width, -half_height, half_width, half_height], dim=1)


def grid_centers(
    height: int, width: int, step: tuple[float, float], offset: float, device: torch.device
) -> Tensor:
    """Points (height * width, 2) as x, y of a map's cells, row-major, in pixels.

    step: distance (vertical, horizontal) between neighbouring cells in pixels; offset: where in
    its cell a point lies, as a fraction of the step (0 = top left corner, 0.5 = middle).
    """
    y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * step[0]
    x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * step[1]
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x.reshape(-1), grid_y.reshape(-1)], dim=1)


def grid_priors(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    shapes: Sequence[Tensor],
    *,
    offset: float = 0.0,
    steps: Sequence[tuple[float, float]] | None = None,
) -> Priors:
    """Priors of L feature maps.

    map_sizes: (height, width) in cells of each map; strides: pixels per cell; shapes: anchor
    corners (A, 4) around the origin per level, which also give the device; offset: see
    `grid_centers`; steps: distance (vertical, horizontal) of the points where it is not the stride.
    """
    boxes, centers, stride_column = [], [], []
    for level, ((height, width), stride, shape) in enumerate(
        zip(map_sizes, strides, shapes, strict=True)
    ):
        step = (float(stride), float(stride)) if steps is None else steps[level]
        points = grid_centers(height, width, step, offset, shape.device)
        cell_boxes = points.repeat(1, 2)[:, None, :] + shape[None, :, :]  # (cells, A, 4)
        boxes.append(cell_boxes.reshape(-1, 4))
        centers.append(points.repeat_interleave(shape.shape[0], dim=0))
        stride_column.append(torch.full_like(boxes[-1][:, 0], float(stride)))
    return Priors(
        torch.cat(boxes),
        torch.cat(centers),
        torch.cat(stride_column),
        tuple(level_boxes.shape[0] for level_boxes in boxes),
    )


def priors_inside(priors: Priors, size: tuple[int, int], *, offset: float = 0.0) -> Tensor:
    """(P,) bool: the prior's cell begins inside an image of `size` (height, width) pixels.

    offset: as the priors were built with. The anchor box itself may leave the image.
    """
    height, width = size
    corner = priors.centers - offset * priors.strides[:, None]
    return (corner[:, 0] < width) & (corner[:, 1] < height)
