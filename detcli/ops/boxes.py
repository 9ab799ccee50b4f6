"""Box geometry on float32 (N, 4) xyxy pixels.

Letters: A, B numbers of boxes. The arithmetic is plain float32 without any `+ 1`:
width = x2 - x1. Results that decide assignments keep this exact order of operations, because
boxes inside (or around) an object tie in IoU up to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_UNION = 1e-6  # square pixels; keeps the IoU of two empty boxes at 0


def box_area(boxes: Tensor) -> Tensor:
    """Area (A,) in square pixels of boxes (A, 4)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def box_centers(boxes: Tensor) -> Tensor:
    """Centres (A, 2) as x, y of boxes (A, 4)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def pairwise_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Common area (A, B) in square pixels of every box of a (A, 4) with every box of b (B, 4)."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    width, height = (bottom_right - top_left).clamp_(min=0).unbind(-1)
    return width * height


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (A, B) of every box of a (A, 4) with every box of b (B, 4)."""
    common = pairwise_intersection(a, b)
    union = box_area(a)[:, None] + box_area(b)[None, :] - common
    return common / union.clamp_(min=MIN_UNION)


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (A, B), from -1 to 1, of every box of a (A, 4) with every box of b (B, 4)
    (Rezatofighi et al. 2019)."""
    common = pairwise_intersection(a, b)
    union = (box_area(a)[:, None] + box_area(b)[None, :] - common).clamp_(min=MIN_UNION)
    top_left = torch.minimum(a[:, None, :2], b[None, :, :2])
    width, height = (torch.maximum(a[:, None, 2:], b[None, :, 2:]) - top_left).unbind(-1)
    hull = (width * height).clamp_(min=MIN_UNION)
    return common / union - (hull - union) / hull


def paired_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Common area (A,) in square pixels of box i of a (A, 4) with box i of b (A, 4)."""
    top_left = torch.maximum(a[:, :2], b[:, :2])
    bottom_right = torch.minimum(a[:, 2:], b[:, 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    return width * height


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (A,) of box i of a (A, 4) with box i of b (A, 4); differentiable."""
    common = paired_intersection(a, b)
    union = box_area(a) + box_area(b) - common
    return common / union.clamp(min=MIN_UNION)


def boxes_from_shares(shares: Tensor, sides: Tensor) -> Tensor:
    """Boxes (..., 4) of centres, widths and heights (..., 4) in fractions of images with the sides
    (..., 2) = width, height in pixels."""
    centers, half = shares[..., :2] * sides, shares[..., 2:] * sides / 2
    return torch.cat([centers - half, centers + half], dim=-1)


def shares_from_boxes(boxes: Tensor, sides: Tensor) -> Tensor:
    """The inverse of `boxes_from_shares`."""
    top_left, bottom_right = boxes[..., :2] / sides, boxes[..., 2:] / sides
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (A, 4) with their corners moved inside an image of `size` (height, width) pixels."""
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)
