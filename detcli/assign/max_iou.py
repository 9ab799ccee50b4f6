"""Assignment by overlap (Faster R-CNN, Ren et al. 2015; RetinaNet, Lin et al. 2017).

Letters: P priors, G ground-truth boxes, T prior types, W columns, H rows, N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detcli.assign.grid import GridLines, grid_lines, pairs_in_windows
from detcli.assign.matching import IGNORED, NEGATIVE, best_box_per_prior
from detcli.ops.boxes import box_area, paired_iou
from detcli.ops.priors import Priors
from detcli.types import check_shape

# Candidates are found with one area per prior type, but a prior's own area differs from it by the
# rounding of its corners: far less than this share, by which the search goes below its limits.
SEARCH_MARGIN = 1e-3


@dataclass(frozen=True)
class SmallThresholds:
    """Thresholds of boxes whose area is below max_side_px squared, in pixels of the network
    input."""

    max_side_px: float
    positive_iou: float
    negative_iou: float


@dataclass(frozen=True)
class MaxIoUAssigner:
    """A prior takes the box it overlaps most, and every box takes its best priors.

    positive_iou: from this IoU on a prior is positive; below negative_iou it is negative, between
    the two ignored. small: other thresholds for small boxes, at most as high; a prior then takes
    the box it overlaps most of those whose own positive_iou it reaches, and is negative where it
    stays below every box's own negative_iou. Then each box, in order, takes all priors whose IoU
    with it equals its best one, if that is at least min_positive_iou and above 0, also from boxes
    before it. (References take a best IoU of 0 as well, which turns every prior positive for an
    empty box.) None: no box takes any. single_best: of priors with the same best IoU the box takes
    the first alone. group: so many neighbouring priors, those of a cell, count as one, which
    overlaps a box as much as the best of them (guided anchoring).
    """

    positive_iou: float
    negative_iou: float
    min_positive_iou: float | None
    small: SmallThresholds | None = None
    single_best: bool = False
    group: int = 1

    @torch.no_grad()
    def __call__(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Index of the box (P / group,) int64 of each prior, -1 negative, -2 ignored; boxes (G, 4)
        xyxy.

        Equal IoU with two boxes goes to the earlier one.
        """
        check_shape("boxes", boxes, None, 4)
        num_priors, num_boxes = len(priors) // self.group, len(boxes)
        if num_priors == 0 or num_boxes == 0:
            return torch.full((num_priors,), NEGATIVE, device=boxes.device)
        positive, negative = self._thresholds(boxes)
        box, prior = self._candidates(grid_lines(priors), boxes)
        iou = paired_iou(boxes[box], priors.boxes[prior])
        prior = prior // self.group

        enough = iou >= positive[box]
        matched = best_box_per_prior(prior[enough], box[enough], iou[enough], num_priors)
        if self.negative_iou > 0:
            near = prior[iou >= negative[box]]
            matched[near] = matched[near].where(matched[near] >= 0, IGNORED)
        else:
            matched.masked_fill_(matched < 0, IGNORED)
        if self.min_positive_iou is None:
            return matched

        best = iou.new_zeros(num_boxes).scatter_reduce_(0, box, iou, "amax")
        takes = (iou == best[box]) & (iou >= self.min_positive_iou)
        prior, box = prior[takes], box[takes]
        if self.single_best:
            first = prior.new_full((num_boxes,), num_priors).scatter_reduce_(0, box, prior, "amin")
            is_first = prior == first[box]
            prior, box = prior[is_first], box[is_first]
        last = matched.new_full((num_priors,), NEGATIVE).scatter_reduce_(0, prior, box, "amax")
        matched[prior] = last[prior]
        return matched

    def relaxed(self, factor: float) -> MaxIoUAssigner:
        """The rule with all positive and negative thresholds divided by `factor`."""
        small = self.small and SmallThresholds(
            self.small.max_side_px,
            self.small.positive_iou / factor,
            self.small.negative_iou / factor,
        )
        return replace(
            self,
            positive_iou=self.positive_iou / factor,
            negative_iou=self.negative_iou / factor,
            small=small,
        )

    def _thresholds(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Positive and negative threshold (G,), (G,) of each box."""
        positive = boxes.new_full((len(boxes),), self.positive_iou)
        negative = boxes.new_full((len(boxes),), self.negative_iou)
        if self.small is not None:
            small = box_area(boxes) < self.small.max_side_px**2
            positive[small] = self.small.positive_iou
            negative[small] = self.small.negative_iou
        return positive, negative

    def _candidates(self, lines: GridLines, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Box and prior (N,), (N,) of all pairs that reach a threshold or the best IoU of the box,
        and some below; all have an IoU above 0.

        On a grid the column of the widest and the row of the highest common part meet in a prior,
        so the best IoU of every type is known before any prior is looked at.
        """
        left, top, right, bottom = boxes[:, :, None, None].unbind(1)  # (G, 1, 1) each
        width = (torch.minimum(right, lines.x2) - torch.maximum(left, lines.x1)).clamp_(min=0)
        height = (torch.minimum(bottom, lines.y2) - torch.maximum(top, lines.y1)).clamp_(min=0)
        most_width, most_height = width.amax(dim=2), height.amax(dim=2)  # (G, T)
        common = most_width * most_height
        type_area = (lines.x2[:, 0] - lines.x1[:, 0]) * (lines.y2[:, 0] - lines.y1[:, 0])
        areas = box_area(boxes)[:, None] + type_area  # (G, T)
        best = (common / (areas - common).clamp_(min=1e-6)).amax(dim=1, keepdim=True)
        positive, negative = self._thresholds(boxes)
        limits = negative if self.negative_iou > 0 else positive
        lowest = torch.minimum(best, limits[:, None]) * (1 - SEARCH_MARGIN)  # (G, 1)
        needed = (lowest / (1 + lowest) * areas)[:, :, None]  # common area that gives this IoU
        columns = (width > 0) & (width * most_height[:, :, None] >= needed)
        rows = (height > 0) & (height * most_width[:, :, None] >= needed)
        return pairs_in_windows(lines, columns, rows)
