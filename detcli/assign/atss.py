"""Adaptive training sample selection (ATSS, Zhang et al. 2020).

Letters: P priors, G ground-truth boxes, K candidates of a box over all levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detcli.assign.grid import LevelGrid, find_grids
from detcli.assign.matching import NEGATIVE, best_box_per_prior
from detcli.ops.boxes import box_centers, paired_iou
from detcli.ops.priors import Priors
from detcli.types import check_shape

MIN_INSIDE = 0.01  # pixels between a positive prior's centre and the sides of its box


@dataclass(frozen=True)
class ATSSAssigner:
    """Each box sets its own IoU threshold from the priors around its centre.

    Candidates of a box are the priors of the topk cells of each level whose centres are nearest
    to its own (L2; of equal distances the earlier cell; all cells where there are fewer), as in
    the authors' code: with several anchors per cell, all of them. A candidate is positive if its
    IoU is at least the candidates' mean + standard deviation (n - 1; 0 for a single candidate)
    and its centre lies inside the box by more than 0.01 pixels. A prior that several boxes want
    goes to the one with the larger IoU, then to the earlier one.
    """

    topk: int

    @torch.no_grad()
    def __call__(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Index of the box (P,) int64 of each prior, -1 negative; boxes (G, 4) xyxy."""
        check_shape("boxes", boxes, None, 4)
        if len(priors) == 0 or len(boxes) == 0:
            return torch.full((len(priors),), NEGATIVE, device=boxes.device)
        prior = self._candidates(priors, boxes)  # (G, K)
        num_candidates = prior.shape[1]
        each = boxes[:, None, :].expand(-1, num_candidates, -1)  # (G, K, 4)
        iou = paired_iou(each.reshape(-1, 4), priors.boxes[prior.flatten()]).view_as(prior)

        # float64: the mean of equal IoUs is then that IoU, and no device rounds another way
        exact = iou.double()
        spread = exact.std(dim=1, correction=min(1, num_candidates - 1))
        threshold = exact.mean(dim=1) + spread
        centers = priors.centers[prior]  # (G, K, 2)
        sides = torch.cat([centers - each[..., :2], each[..., 2:] - centers], dim=2)
        positive = (exact >= threshold[:, None]) & (sides.amin(dim=2) > MIN_INSIDE)
        box = positive.nonzero()[:, 0]
        return best_box_per_prior(prior[positive], box, iou[positive], len(priors))

    def relaxed(self, factor: float) -> ATSSAssigner:
        """The rule with `factor` times as many candidates, and so a lower mean IoU."""
        return ATSSAssigner(round(self.topk * factor))

    def _candidates(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Prior index (G, K) of each box's candidates, level by level."""
        points = box_centers(boxes)
        grids = find_grids(priors)
        if grids is None:
            parts, start = [], 0
            for size in priors.level_sizes:
                away = priors.centers[start : start + size] - points[:, None]  # (G, size, 2)
                parts.append(start + _nearest(away.square().sum(dim=2), self.topk))
                start += size
            return torch.cat(parts, dim=1)
        return torch.cat([self._on_grid(priors, grid, points) for grid in grids], dim=1)

    def _on_grid(self, priors: Priors, grid: LevelGrid, points: Tensor) -> Tensor:
        """Prior index (G, k) of the priors of the cells nearest to `points` (G, 2).

        They lie in the topk nearest columns and rows: any other column holds no cell that comes
        before those of topk nearer columns in the same row.
        """
        end = grid.start + grid.rows * grid.columns * grid.anchors
        cells = priors.centers[grid.start : end].view(grid.rows, grid.columns, grid.anchors, 2)
        away_x = (cells[0, :, 0, 0] - points[:, :1]).square()  # (G, columns)
        away_y = (cells[:, 0, 0, 1] - points[:, 1:]).square()  # (G, rows)
        # in rising order again, so that the cells stay in theirs and the earlier one wins ties
        column = _nearest(away_x, self.topk).sort(dim=1).values
        row = _nearest(away_y, self.topk).sort(dim=1).values
        distance = away_x.gather(1, column)[:, None, :] + away_y.gather(1, row)[:, :, None]
        cell = row[:, :, None] * grid.columns + column[:, None, :]
        nearest = cell.flatten(1).gather(1, _nearest(distance.flatten(1), self.topk))
        anchor = torch.arange(grid.anchors, device=points.device)
        return (grid.start + nearest[:, :, None] * grid.anchors + anchor).flatten(1)


def _nearest(distance: Tensor, count: int) -> Tensor:
    """Places (G, min(count, n)) of the smallest entries of distance (G, n); ties: the earlier."""
    return distance.sort(dim=1, stable=True).indices[:, :count]
