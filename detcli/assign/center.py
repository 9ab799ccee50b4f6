"""Objects as peaks of heat maps (CenterNet, Zhou et al., arXiv 1904.07850).

Letters: B images, C classes, h and w cells of the map, G objects of one image, N of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detcli.ops.boxes import box_centers
from detcli.types import Target

SIGMA_SPAN = 6.0  # standard deviations that the Gaussian's diameter covers (CornerNet's code)


class CenterTargets(NamedTuple):
    """What the maps of a batch should be.

    heatmaps (B, C, h, w) from 0 to 1, exactly 1 where an object's centre lies; ignored (B, h, w)
    bool: cells that count neither way, but for centres; cells (N,) int64: the objects' rows among
    the B * h * w cells; sizes (N, 2) width and height in cells; offsets (N, 2): centres from the
    top left corner of their cell, x and y, in cells; num_peaks: what the class loss is divided
    by, and num_objects: N, float scalars.
    """

    heatmaps: Tensor
    ignored: Tensor
    cells: Tensor
    sizes: Tensor
    offsets: Tensor
    num_peaks: Tensor
    num_objects: Tensor


@dataclass(frozen=True)
class CenterAssigner:
    """Around each object's centre a Gaussian, whose radius shrinks with the object.

    radius: see `gaussian_radius`; min_overlap: the IoU that a box moved by the radius still has,
    so roughly; whole_cells: sides are rounded up before the radius. shared_cells: where centres
    share a cell, "last" object of the image is regressed and the cell is one peak (MMDetection),
    or "all" are, and the peaks of each class count (xingyizhou/CenterNet).
    """

    radius: str
    min_overlap: float
    whole_cells: bool
    shared_cells: str

    @property
    def min_peaks(self) -> float:
        """What a batch without objects counts as, as in the two references."""
        return 0.5 if self.shared_cells == "last" else 1.0

    @torch.no_grad()
    def __call__(
        self,
        targets: Sequence[Target],
        *,
        num_classes: int,
        grid: tuple[int, int],
        canvas: tuple[int, int],
    ) -> CenterTargets:
        """Targets of a batch whose `canvas` (height, width) in pixels has `grid` (h, w) cells."""
        (height, width), like = grid, targets[0].boxes
        scale = like.new_tensor([width / canvas[1], height / canvas[0]]).repeat(2)
        heatmaps = like.new_zeros(len(targets), num_classes, height, width)
        ignored = like.new_zeros(len(targets), height, width, dtype=torch.bool)
        cells, sizes, offsets = [], [], []
        for image, target in enumerate(targets):
            boxes = target.boxes * scale
            centers, sides = box_centers(boxes), boxes[:, 2:] - boxes[:, :2]
            limit = torch.tensor([width, height], device=boxes.device) - 1
            cell = torch.minimum(centers.long(), limit)  # a centre on the far border has no cell
            self._draw(heatmaps[image], target.labels, cell, sides)
            ignored[image] = _inside_any(target.ignore_boxes * scale, grid)
            flat = cell[:, 1] * width + cell[:, 0]
            kept = _last_of_each(flat) if self.shared_cells == "last" else slice(None)
            cells.append((image * height * width + flat)[kept])
            sizes.append(sides[kept])
            offsets.append((centers - cell)[kept])
        rows = torch.cat(cells)
        objects = like.new_tensor(len(rows))
        peaks = objects if self.shared_cells == "last" else (heatmaps == 1).sum().to(like.dtype)
        return CenterTargets(
            heatmaps, ignored, rows, torch.cat(sizes), torch.cat(offsets), peaks, objects
        )

    def _draw(self, heatmap: Tensor, labels: Tensor, cells: Tensor, sides: Tensor) -> None:
        """Raise heatmap (C, h, w) to the Gaussians of objects at cells (G, 2) of sides (G, 2)."""
        if self.whole_cells:
            sides = sides.ceil()
        radius = gaussian_radius(sides, min_overlap=self.min_overlap, form=self.radius)
        radius = radius.clamp(min=0).floor()
        columns = _bump(heatmap.shape[2], cells[:, 0], radius)  # (G, w)
        rows = _bump(heatmap.shape[1], cells[:, 1], radius)  # (G, h)
        peaks = rows[:, :, None] * columns[:, None, :]  # (G, h, w)
        for label in set(labels.tolist()):
            heatmap[label] = peaks[labels == label].amax(dim=0)


def gaussian_radius(sides: Tensor, *, min_overlap: float, form: str) -> Tensor:
    """(N,) how far, in cells, both corners of boxes with sides (N, 2) may move before their IoU
    falls below `min_overlap`: the least of three cases (CornerNet, arXiv 1808.01244, 3.1).

    form: "corrected", the roots of the three quadratic equations; "cornernet", as its code and
    xingyizhou/CenterNet have them: divided by 2 whatever the leading coefficient, and the larger
    root of the first two.
    """
    total, area = sides.sum(dim=1), sides.prod(dim=1)
    # a r^2 + b r + c = 0 for one corner outside, none, both
    cases = (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    )
    radii = []
    for number, (a, b, c) in enumerate(cases):
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        if form == "cornernet":
            radii.append((b + root) / 2)
        else:
            radii.append((b + root if number == 2 else b - root) / (2 * a))
    return torch.stack(radii).amin(dim=0)


def _bump(length: int, center: Tensor, radius: Tensor) -> Tensor:
    """(G, length) values along one axis of Gaussians at cells center (G,), 0 beyond radius (G,)."""
    distance = torch.arange(length, device=center.device) - center[:, None]
    sigma = (2 * radius[:, None] + 1) / SIGMA_SPAN
    value = (-distance.square() / (2 * sigma.square())).exp()
    return value.where(distance.abs() <= radius[:, None], 0.0)


def _last_of_each(flat: Tensor) -> Tensor:
    """Positions of flat (G,) after which its value does not come again, in order."""
    same = flat[:, None] == flat[None, :]
    return (~same.triu(diagonal=1).any(dim=1)).nonzero().squeeze(1)


def _inside_any(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(h, w) bool: cells whose middle lies in one of boxes (K, 4), given in cells."""
    height, width = grid
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    columns = (x >= boxes[:, :1]) & (x <= boxes[:, 2:3])  # (K, w)
    rows = (y >= boxes[:, 1:2]) & (y <= boxes[:, 3:])  # (K, h)
    return (rows[:, :, None] & columns[:, None, :]).any(dim=0)
