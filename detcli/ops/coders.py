"""What a box branch predicts, and the way back to boxes.

Letters: M rows, each with its prior. Deltas start from an anchor box, distances from a point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from detcli.ops.boxes import box_centers
from detcli.ops.priors import Priors

# Largest growth of a side by decoding: 1000 / 16 times. Keeps exp() finite early in training.
MAX_LOG_SCALE = math.log(1000 / 16)


class BoxCoder(Protocol):
    """A pair of inverse maps between boxes and what the box branch predicts."""

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Predictions (M, 4) that would decode to boxes (M, 4) xyxy pixels."""
        ...

    def decode(self, encoded: Tensor, priors: Priors) -> Tensor:
        """Boxes (M, 4) xyxy pixels from predictions (M, 4), row i with prior i."""
        ...

    def side_units(self, priors: Priors) -> Tensor:
        """Pixels (M, 4) that errors of left, top, right and bottom are measured in."""
        ...


class DeltaCoder:
    """Deltas from an anchor box (R-CNN, arXiv 1311.2524, appendix C).

    dx, dy: shift of the centre in anchor sides; dw, dh: logarithm of the growth of the sides; each
    divided by its `std`. Decoding limits dw and dh to +-max_log_scale.
    """

    def __init__(
        self, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0), *, max_log_scale: float = MAX_LOG_SCALE
    ) -> None:
        self.stds = tuple(stds)
        self.max_log_scale = max_log_scale

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Deltas (M, 4) as dx, dy, dw, dh."""
        anchor_size = priors.boxes[:, 2:] - priors.boxes[:, :2]
        shift = (box_centers(boxes) - box_centers(priors.boxes)) / anchor_size
        growth = ((boxes[:, 2:] - boxes[:, :2]) / anchor_size).log()
        return torch.cat([shift, growth], dim=1) / boxes.new_tensor(self.stds)

    def decode(self, encoded: Tensor, priors: Priors) -> Tensor:
        """Boxes (M, 4) xyxy pixels."""
        deltas = encoded * encoded.new_tensor(self.stds)
        anchor_size = priors.boxes[:, 2:] - priors.boxes[:, :2]
        center = box_centers(priors.boxes) + deltas[:, :2] * anchor_size
        limit = self.max_log_scale
        half = anchor_size * deltas[:, 2:].clamp(-limit, limit).exp() / 2
        return torch.cat([center - half, center + half], dim=1)

    def side_units(self, priors: Priors) -> Tensor:
        """Pixels (M, 4): the anchor's sides times the std of dx and dy."""
        anchor_size = priors.boxes[:, 2:] - priors.boxes[:, :2]
        return (anchor_size * anchor_size.new_tensor(self.stds[:2])).repeat(1, 2)


class DistanceCoder:
    """Distances from a point to the left, top, right and bottom side (FCOS, arXiv 1904.01355).

    stride_units: the predictions count strides of the prior's level; otherwise pixels.
    """

    def __init__(self, *, stride_units: bool) -> None:
        self.stride_units = stride_units

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Distances (M, 4) as left, top, right, bottom; negative where the point lies outside."""
        distances = side_distances(priors.centers, boxes)
        return distances / priors.strides[:, None] if self.stride_units else distances

    def decode(self, encoded: Tensor, priors: Priors) -> Tensor:
        """Boxes (M, 4) xyxy pixels."""
        ltrb = encoded * priors.strides[:, None] if self.stride_units else encoded
        return torch.cat([priors.centers - ltrb[:, :2], priors.centers + ltrb[:, 2:]], dim=1)

    def side_units(self, priors: Priors) -> Tensor:
        """Pixels (M, 4): the stride, whatever the predictions count."""
        return priors.strides[:, None].repeat(1, 4)


def side_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Pixels (M, 4) from point i of (M, 2) to the left, top, right and bottom side of box i."""
    return torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=1)
