"""Small objects that are assigned by a larger box (note 003, small objects 7).

Letters: P priors, G ground-truth boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detcli.assign.assigner import Assigner
from detcli.ops.boxes import box_area, box_centers
from detcli.ops.priors import Priors
from detcli.types import check_shape


@dataclass(frozen=True)
class EnlargedBoxes:
    """Another assigner that sees small boxes enlarged.

    Boxes whose area is below max_side_px squared, in pixels of the network input, grow on both
    sides by `factor` about their centre, past the image's border too. Only the assignment, and
    the centre-ness of what it chose, see this: what is regressed, and every IoU in a loss, stays
    with the true box. (The note enlarges the annotation itself; boxes learned from that would be
    too large for the metric.)
    """

    assigner: Assigner
    max_side_px: float
    factor: float

    @torch.no_grad()
    def __call__(self, priors: Priors, boxes: Tensor) -> Tensor:
        """As `assigner`, for the enlarged boxes (G, 4) xyxy."""
        return self.assigner(priors, self.enlarge(boxes))

    def enlarge(self, boxes: Tensor) -> Tensor:
        """Boxes (G, 4) xyxy with the small ones enlarged; the others as they are."""
        check_shape("boxes", boxes, None, 4)
        center = box_centers(boxes)
        half = (boxes[:, 2:] - boxes[:, :2]) * (self.factor / 2)
        larger = torch.cat([center - half, center + half], dim=1)
        small = box_area(boxes) < self.max_side_px**2
        return larger.where(small[:, None], boxes)

    def relaxed(self, factor: float) -> EnlargedBoxes:
        """The same boxes for the relaxed assigner."""
        return replace(self, assigner=self.assigner.relaxed(factor))
