"""Losses between paired boxes or box codes.

Letters: M samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from detcli.ops.boxes import MIN_UNION, box_area, paired_intersection, paired_iou
from detcli.types import check_shape

MIN_IOU = 1e-6  # the IoU loss of boxes that do not meet is -log of this, with gradient 0


@dataclass(frozen=True)
class SmoothL1Loss:
    """Quadratic below `beta`, linear above (Fast R-CNN, Girshick 2015); plain L1 for beta 0.

    beta: where the parts meet, in units of the prediction; weight: factor of the sum.
    """

    beta: float
    weight: float
    on_boxes: ClassVar[bool] = False

    def __call__(self, pred: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted sum over all four numbers, a float32 scalar; pred, target (M, 4) codes of boxes
        (deltas or distances), weights (M,) or None."""
        pred, target = _checked(pred, target, weights)
        each = F.smooth_l1_loss(pred, target, reduction="none", beta=self.beta)
        return _weighted_sum(each.sum(dim=1), weights) * self.weight


@dataclass(frozen=True)
class IoULoss:
    """-log IoU (UnitBox, Yu et al. 2016); weight: factor of the sum."""

    weight: float
    on_boxes: ClassVar[bool] = True

    def __call__(self, pred: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted sum, a float32 scalar; pred, target (M, 4) xyxy boxes, weights (M,) or None."""
        pred, target = _checked(pred, target, weights)
        each = -paired_iou(pred, target).clamp(min=MIN_IOU).log()
        return _weighted_sum(each, weights) * self.weight


@dataclass(frozen=True)
class GIoULoss:
    """1 - generalised IoU (Rezatofighi et al. 2019), from 0 to 2; weight: factor of the sum."""

    weight: float
    on_boxes: ClassVar[bool] = True

    def __call__(self, pred: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted sum, a float32 scalar; pred, target (M, 4) xyxy boxes, weights (M,) or None."""
        pred, target = _checked(pred, target, weights)
        common = paired_intersection(pred, target)
        union = (box_area(pred) + box_area(target) - common).clamp(min=MIN_UNION)
        top_left = torch.minimum(pred[:, :2], target[:, :2])
        bottom_right = torch.maximum(pred[:, 2:], target[:, 2:])
        width, height = (bottom_right - top_left).unbind(1)
        hull = (width * height).clamp(min=MIN_UNION)
        giou = common / union - (hull - union) / hull
        return _weighted_sum(1 - giou, weights) * self.weight


def _checked(pred: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """pred and target, their shapes checked, in float32 or better."""
    check_shape("pred", pred, None, 4)
    check_shape("target", target, len(pred), 4)
    if weights is not None:
        check_shape("weights", weights, len(pred))
    dtype = torch.promote_types(pred.dtype, torch.float32)
    return pred.to(dtype), target.to(dtype)


def _weighted_sum(each: Tensor, weights: Tensor | None) -> Tensor:
    return each.sum() if weights is None else (each * weights).sum()
