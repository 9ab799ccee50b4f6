"""Assignment by position (FCOS, Tian et al. 2019; centre sampling as in its 2020 revision).

Letters: P priors, G ground-truth boxes, T prior types, W columns or rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detcli.assign.grid import grid_lines, pairs_in_windows
from detcli.assign.matching import NEGATIVE, best_box_per_prior
from detcli.ops.boxes import box_area
from detcli.ops.priors import Priors
from detcli.types import check_shape

# A level answers for objects whose longest side distance lies within 4 to 8 of its strides:
# 64, 128, 256 and 512 pixels part the levels of strides 8 to 128.
RANGE_STRIDES = (4.0, 8.0)


@dataclass(frozen=True)
class FCOSAssigner:
    """A point takes the smallest of the boxes that it lies in and whose size fits its level.

    center_radius: in strides of the level; None: the whole box counts, else only the square of
    this half side around the box's centre, cut at the box's sides. The point must lie strictly
    inside. Its largest distance to a side of the box must be range_strides, 4 to 8, both included;
    the first level has no lower limit and the last one no upper limit.
    """

    center_radius: float | None
    range_strides: tuple[float, float] = RANGE_STRIDES

    @torch.no_grad()
    def __call__(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Index of the box (P,) int64 of each prior, -1 negative; boxes (G, 4) xyxy.

        Of boxes of equal area the earlier one wins.
        """
        check_shape("boxes", boxes, None, 4)
        if len(priors) == 0 or len(boxes) == 0:
            return torch.full((len(priors),), NEGATIVE, device=boxes.device)
        lines = grid_lines(priors)
        last_level = len(priors.level_sizes) - 1
        longest = (lines.stride * self.range_strides[1]).where(lines.level < last_level, torch.inf)
        left, top, right, bottom = boxes[:, :, None, None].unbind(1)  # (G, 1, 1) each
        columns = self._along(lines.center_x, left, right, lines.stride, longest)
        rows = self._along(lines.center_y, top, bottom, lines.stride, longest)
        box, prior = pairs_in_windows(lines, columns, rows)

        x, y = priors.centers[prior].unbind(1)
        left, top, right, bottom = boxes[box].unbind(1)
        farthest = torch.stack([x - left, y - top, right - x, bottom - y]).amax(dim=0)
        shortest = (priors.strides * self.range_strides[0])[prior]
        fits = (farthest >= shortest) | (prior < priors.level_sizes[0])
        box, prior = box[fits], prior[fits]
        return best_box_per_prior(prior, box, -box_area(boxes)[box], len(priors))

    def relaxed(self, factor: float) -> FCOSAssigner:
        """The rule with `factor` times the radius around the centre; where the whole box counts
        already, with a range of sizes that is wider by `factor` at both ends."""
        if self.center_radius is not None:
            return replace(self, center_radius=self.center_radius * factor)
        low, high = self.range_strides
        return replace(self, range_strides=(low / factor, high * factor))

    def _along(
        self, center: Tensor, low: Tensor, high: Tensor, stride: Tensor, longest: Tensor
    ) -> Tensor:
        """(G, T, W) bool: which columns (or rows) of points center (T, W) a box's side
        low to high (G, 1, 1) can take; stride, longest (T,) pixels."""
        farthest = torch.maximum(center - low, high - center)
        inside = farthest <= longest[:, None]
        if self.center_radius is not None:
            middle = (low + high) / 2
            radius = stride[:, None] * self.center_radius
            low = torch.maximum(low, middle - radius)
            high = torch.minimum(high, middle + radius)
        return inside & (center > low) & (center < high)
