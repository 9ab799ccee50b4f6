"""The box loss of Darknet, with the slope that Darknet trains with.

Letters: M pairs of a predicted and a true box.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MIN_AREA = 1e-12  # of boxes in units of the image
MIN_ALPHA_TERM = 1e-6


class DarknetCIoU(torch.autograd.Function):
    """Sum of share x weight x (1 - CIoU) (Zheng et al. 2020) of boxes that codes (M, 4) stand for.

    The slope is not that of this sum, but what Darknet hands to its last convolution (box.c and
    yolo_layer.c): boxes are in units of the image; a code of the centre acts as if it were the
    centre itself, without the slopes of sigmoid and cell; a code w of a side as if the side were
    exp(w), without the anchor; the IoU's slope in the sides counts twice; that of the hull's
    diagonal in the centre has the opposite sign; that of the angle term lacks its 1 / (w^2 + h^2);
    each number, times the weight, is held within +-max_slope and is 0 where it is not finite.
    Learning rates published for Darknet are for this.
    """

    @staticmethod
    def forward(
        ctx: Any,
        codes: Tensor,
        pred: Tensor,
        true: Tensor,
        shares: Tensor,
        weight: float,
        max_slope: float,
    ) -> Tensor:
        """A float32 scalar; codes (M, 4) raw outputs x, y, w, h, pred (M, 4) the boxes they
        decode to, true (M, 4): cxcywh in units of the image; shares (M,) factors beside weight."""
        codes, pred, true = codes.float(), pred.float(), true.float()
        slopes = torch.cat([torch.ones_like(codes[:, :2]), codes[:, 2:].exp()], dim=1)
        with torch.enable_grad():
            inputs = pred.detach().requires_grad_()
            losses = _ciou_losses(inputs, true) * weight
            (slope,) = torch.autograd.grad(losses.sum(), inputs)
        slope = torch.nan_to_num(slope * slopes, nan=0.0, posinf=0.0, neginf=0.0)
        ctx.save_for_backward(slope.clamp(-max_slope, max_slope) * shares[:, None])
        return (losses.detach() * shares).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        """The slope of the codes."""
        (slope,) = ctx.saved_tensors
        return slope * grad_total, *[None] * 5


def _ciou_losses(pred: Tensor, true: Tensor) -> Tensor:
    """(M,) 1 - CIoU of cxcywh boxes, with Darknet's slopes in pred."""
    center, side = pred.chunk(2, dim=1)
    true_center, true_side = true.chunk(2, dim=1)
    true_corners = true_center - true_side / 2, true_center + true_side / 2
    # as large as half a side, but with twice its slope
    half = side.detach() / 2 + (side - side.detach())
    low, high = center - half, center + half
    common = (torch.minimum(high, true_corners[1]) - torch.maximum(low, true_corners[0])).clamp(
        min=0
    )
    inter = common.prod(dim=1)
    union = (high - low).prod(dim=1) + true_side.prod(dim=1) - inter
    iou = inter / union.clamp(min=MIN_AREA)
    turned = center.detach() - (center - center.detach())  # the same place, the opposite slope
    low, high = turned - side / 2, turned + side / 2
    hull = torch.maximum(high, true_corners[1]) - torch.minimum(low, true_corners[0])
    distance = (center - true_center).square().sum(dim=1)
    diagonal = hull.square().sum(dim=1).clamp(min=MIN_AREA)
    angle = torch.atan2(true_side[:, 0], true_side[:, 1]) - torch.atan2(side[:, 0], side[:, 1])
    v = (2 / math.pi * angle).square()
    alpha = (v / (1 - iou + v + MIN_ALPHA_TERM)).detach()
    squares = side.detach().square().sum(dim=1)
    steep = v.detach() + squares * (v - v.detach())
    losses: Tensor = 1 - iou + distance / diagonal + alpha * steep
    return losses
