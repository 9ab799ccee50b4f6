"""Losses between paired boxes or box codes.

Letters: M samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from detcli.ops.boxes import MIN_UNION, box_area, box_centers, paired_intersection, paired_iou
from detcli.types import check_shape

MIN_IOU = 1e-6  # the IoU loss of boxes that do not meet is -log of this, with gradient 0
# Pixels; the slope of a side ratio is at most the inverse of this, also for boxes without a side.
MIN_SIDE = 1e-3
BOUNDED_IOU_BETA = 0.2
MIN_ALPHA_TERM = 1e-7  # of CIoU: two equal boxes give 0 / this and not 0 / 0
# Of a side's error: standard deviations from 0.7 % to 150 times the unit. Keeps exp() finite.
MAX_LOG_VARIANCE = 10.0

# (pred (M, 4), target (M, 4)) -> (M,) the loss of each pair
Terms: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class BoxLoss:
    """Weighted sum over samples of what `terms` gives for each.

    on_boxes: terms compares decoded xyxy boxes in pixels, otherwise what the head regresses
    (deltas or distances); weight: factor of the sum.
    """

    terms: Terms
    on_boxes: bool
    weight: float

    def __call__(self, pred: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted sum, a float32 scalar (float64 for float64); pred, target (M, 4), weights (M,)
        or None. Finite for all finite input, exact zero that keeps the graph for M = 0.

        Raises ValueError on other shapes.
        """
        check_shape("pred", pred, None, 4)
        check_shape("target", target, len(pred), 4)
        if weights is not None:
            check_shape("weights", weights, len(pred))
        dtype = torch.promote_types(pred.dtype, torch.float32)
        each = self.terms(pred.to(dtype), target.to(dtype))
        total = each.sum() if weights is None else (each * weights).sum()
        return total * self.weight


@dataclass(frozen=True)
class KLLoss:
    """Weighted sum over samples of the KL loss of their four sides (He et al. 2019, arXiv
    1809.08545, equations 9 and 10), for heads that also predict how uncertain each side is.

    A side whose error is e, with the predicted alpha = log variance of e, has
    exp(-alpha) smooth_l1(e) + alpha / 2, smooth_l1 with a slope of 1 from |e| = 1 on; it may be
    below 0. Deviation: alpha is limited, see `deviation`. weight: factor of the sum.
    """

    weight: float

    def __call__(self, errors: Tensor, alpha: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted sum, a float32 scalar (float64 for float64); errors, alpha (M, 4), weights (M,)
        or None. Exact zero that keeps the graph for M = 0.

        Raises ValueError on other shapes.
        """
        check_shape("errors", errors, None, 4)
        check_shape("alpha", alpha, len(errors), 4)
        if weights is not None:
            check_shape("weights", weights, len(errors))
        dtype = torch.promote_types(errors.dtype, torch.float32)
        alpha = alpha.to(dtype).clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        distance = F.smooth_l1_loss(
            errors.to(dtype), torch.zeros_like(alpha), reduction="none", beta=1.0
        )
        each = ((-alpha).exp() * distance + alpha / 2).sum(dim=1)
        total = each.sum() if weights is None else (each * weights).sum()
        return total * self.weight


def deviation(alpha: Tensor) -> Tensor:
    """Standard deviation exp(alpha / 2) of a predicted log variance alpha, of any shape, which is
    limited to +-MAX_LOG_VARIANCE."""
    return (alpha.clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE) / 2).exp()


def l1_terms(pred: Tensor, target: Tensor) -> Tensor:
    """(M,) sums of the four absolute differences."""
    return F.l1_loss(pred, target, reduction="none").sum(dim=1)


def l2_terms(pred: Tensor, target: Tensor) -> Tensor:
    """(M,) sums of the four squared differences (R-CNN, arXiv 1311.2524, appendix C)."""
    return F.mse_loss(pred, target, reduction="none").sum(dim=1)


def smooth_l1_terms(pred: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """(M,) sums over the four numbers: quadratic below `beta` > 0, linear above (Fast R-CNN,
    Girshick 2015). beta: in units of the prediction."""
    return F.smooth_l1_loss(pred, target, reduction="none", beta=beta).sum(dim=1)


def iou_terms(pred: Tensor, target: Tensor, *, form: str) -> Tensor:
    """(M,) -log IoU (form "log"; UnitBox, Yu et al. 2016) or 1 - IoU (form "linear")."""
    iou = paired_iou(pred, target)
    return 1 - iou if form == "linear" else -iou.clamp(min=MIN_IOU).log()


def giou_terms(pred: Tensor, target: Tensor) -> Tensor:
    """(M,) 1 - generalised IoU (Rezatofighi et al. 2019), from 0 to 2."""
    common = paired_intersection(pred, target)
    union = (box_area(pred) + box_area(target) - common).clamp(min=MIN_UNION)
    width, height = _hull_sides(pred, target).unbind(1)
    hull = (width * height).clamp(min=MIN_UNION)
    giou = common / union - (hull - union) / hull
    return 1 - giou


def diou_terms(pred: Tensor, target: Tensor) -> Tensor:
    """(M,) 1 - IoU plus the squared distance of the centres over that of the hull's corners, from
    0 to 2 (DIoU, Zheng et al. 2020)."""
    return iou_terms(pred, target, form="linear") + _center_terms(pred, target)


def ciou_terms(pred: Tensor, target: Tensor) -> Tensor:
    """(M,) DIoU terms plus alpha v, v from 0 to 1 the squared difference of the angles of the
    diagonals (CIoU, Zheng et al. 2020).

    alpha = v / (1 - IoU + v) is a constant for the gradient, as in the paper; the slope of v
    keeps its 1 / (w^2 + h^2), which the paper drops for boxes in units of the image.
    """
    overlap_loss = iou_terms(pred, target, form="linear")
    difference = _diagonal_angle(target) - _diagonal_angle(pred)
    v = (2 / math.pi * difference).square()
    alpha = (v / (overlap_loss + v).clamp(min=MIN_ALPHA_TERM)).detach()
    return overlap_loss + _center_terms(pred, target) + alpha * v


def eiou_terms(pred: Tensor, target: Tensor) -> Tensor:
    """(M,) DIoU terms plus the squared difference of each side over that of the hull, from 0 to 4
    (EIoU, Zhang et al., arXiv 2101.08158)."""
    sides = (pred[:, 2:] - pred[:, :2]) - (target[:, 2:] - target[:, :2])
    hull = _hull_sides(pred, target).square().clamp(min=MIN_UNION)
    return diou_terms(pred, target) + (sides.square() / hull).sum(dim=1)


def focal_eiou_terms(pred: Tensor, target: Tensor, *, gamma: float) -> Tensor:
    """(M,) IoU^gamma x EIoU terms: boxes that fit badly count less (arXiv 2101.08158).

    IoU^gamma is a constant for the gradient: the slope of the product would drive boxes with an
    IoU below gamma / (1 + gamma) away from their object.
    """
    focus = paired_iou(pred, target).detach().clamp(min=0).pow(gamma)
    return focus * eiou_terms(pred, target)


def bounded_iou_terms(pred: Tensor, target: Tensor) -> Tensor:
    """(M,) sums over centre x, y, width and height of what the IoU would at most be if only that
    number were wrong, from 1, as a smooth L1 loss (Tychsen-Smith and Petersson 2018)."""
    size, wanted = pred[:, 2:] - pred[:, :2], target[:, 2:] - target[:, :2]
    away = 2 * (box_centers(target) - box_centers(pred)).abs()
    shift = 1 - ((wanted - away) / (wanted + away + MIN_SIDE)).clamp(min=0)
    growth = 1 - torch.minimum(wanted / (size + MIN_SIDE), size / (wanted + MIN_SIDE))
    missing = torch.cat([shift, growth], dim=1)
    wanted_loss = torch.zeros_like(missing)
    return smooth_l1_terms(missing, wanted_loss, beta=BOUNDED_IOU_BETA)


def _hull_sides(a: Tensor, b: Tensor) -> Tensor:
    """Width and height (M, 2) of the smallest box around box i of a and box i of b."""
    top_left = torch.minimum(a[:, :2], b[:, :2])
    return torch.maximum(a[:, 2:], b[:, 2:]) - top_left


def _center_terms(pred: Tensor, target: Tensor) -> Tensor:
    """(M,) squared distance of the centres over the squared diagonal of the hull."""
    distance = (box_centers(pred) - box_centers(target)).square().sum(dim=1)
    diagonal = _hull_sides(pred, target).square().sum(dim=1)
    return distance / diagonal.clamp(min=MIN_UNION)


def _diagonal_angle(boxes: Tensor) -> Tensor:
    """(M,) angle between the diagonal and the vertical, from 0 to pi / 2."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).clamp(min=MIN_SIDE).unbind(1)
    return torch.atan2(width, height)
