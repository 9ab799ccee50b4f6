"""The box loss of Darknet: its value, and the slopes that its C code hands down."""

from __future__ import annotations

import math

import pytest
import torch

from detcli.losses.box import ciou_terms
from detcli.losses.darknet import DarknetCIoU


def example(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (20, 4), the boxes that they might mean, true boxes, shares."""
    generator = torch.Generator().manual_seed(seed)
    pred = 0.1 + torch.rand(20, 4, generator=generator) * 0.5
    true = pred + (torch.rand(20, 4, generator=generator) - 0.5) * 0.15
    true[:4, 0] += 0.9  # these do not meet
    codes = torch.randn(20, 4, generator=generator)
    shares = torch.tensor([1.0, 0.5]).repeat(10)
    return codes, pred, true, shares


def to_corners(box: torch.Tensor) -> torch.Tensor:
    return torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], dim=1)


def test_the_value_is_that_of_ciou() -> None:
    codes, pred, true, shares = example(0)
    got = DarknetCIoU.apply(codes, pred, true, shares, 0.07, 5.0)
    want = (ciou_terms(to_corners(pred) * 1000, to_corners(true) * 1000) * shares).sum() * 0.07
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)


def plain_slopes(code: list[float], pred: list[float], true: list[float]) -> list[float]:
    """What box.c and yolo_layer.c add to the weights' gradient for one box, times -1: there it is
    the way up."""
    (x, y, w, h), (tx, ty, tw, th) = pred, true
    sides = {"l": (x - w / 2, tx - tw / 2), "r": (x + w / 2, tx + tw / 2)}
    sides |= {"t": (y - h / 2, ty - th / 2), "b": (y + h / 2, ty + th / 2)}
    wide = min(sides["r"]) - max(sides["l"])
    high = min(sides["b"]) - max(sides["t"])
    inter = wide * high
    union = w * h + tw * th - inter
    up = {}
    for name, (mine, theirs) in sides.items():
        sign = 1 if name in "rb" else -1
        inner = mine < theirs if name in "rb" else mine > theirs
        d_inter = (high if name in "lr" else wide) * sign * inner
        d_union = (h if name in "lr" else w) * sign - d_inter
        up[name] = (union * d_inter - inter * d_union) / union**2
    meet = wide > 0 and high > 0
    dx, dy, dw, dh = (
        (up["l"] + up["r"], up["t"] + up["b"], up["r"] - up["l"], up["b"] - up["t"])
        if meet
        else (0.0, 0.0, 0.0, 0.0)
    )
    hull_w = max(sides["r"]) - min(sides["l"])
    hull_h = max(sides["b"]) - min(sides["t"])
    c, s = hull_w**2 + hull_h**2, (x - tx) ** 2 + (y - ty) ** 2
    left, right = sides["l"][0] < sides["l"][1], sides["r"][0] > sides["r"][1]
    top, bottom = sides["t"][0] < sides["t"][1], sides["b"][0] > sides["b"][1]
    dx += (2 * (tx - x) * c - 2 * hull_w * (right - left) * s) / c**2
    dy += (2 * (ty - y) * c - 2 * hull_h * (bottom - top) * s) / c**2
    dw += 2 * hull_w * (right + left) / 2 * s / c**2
    dh += 2 * hull_h * (bottom + top) / 2 * s / c**2
    angle = math.atan(tw / th) - math.atan(w / h)
    v = 4 / math.pi**2 * angle**2
    iou = inter / union if meet else 0.0
    alpha = v / (1 - iou + v + 1e-6)
    dw += alpha * 8 / math.pi**2 * angle * h
    dh -= alpha * 8 / math.pi**2 * angle * w
    return [-dx, -dy, -dw * math.exp(code[2]), -dh * math.exp(code[3])]


@pytest.mark.parametrize("seed", range(3))
def test_the_slopes_are_those_of_the_c_code(seed: int) -> None:
    codes, pred, true, shares = example(seed)
    codes.requires_grad_()
    (DarknetCIoU.apply(codes, pred, true, shares, 0.07, 1e9) * 3).backward()
    rows = zip(codes.tolist(), pred.tolist(), true.tolist(), strict=True)
    want = torch.tensor([plain_slopes(*row) for row in rows]) * shares[:, None] * 0.07 * 3
    torch.testing.assert_close(codes.grad, want, rtol=1e-3, atol=1e-6)


def test_slopes_are_held_and_finite() -> None:
    codes, pred, true, shares = example(0)
    codes[5, 2] = 200.0  # exp overflows
    codes.requires_grad_()
    DarknetCIoU.apply(codes, pred, true, shares, 0.07, 0.01).backward()
    assert codes.grad.isfinite().all()
    assert codes.grad[5, 2] == 0
    limit = 0.01 * shares[:, None].expand(20, 4)
    assert (codes.grad.abs() <= limit + 1e-9).all()
    assert (codes.grad.abs() > limit - 1e-9).any()


def test_no_pairs() -> None:
    codes = torch.zeros(0, 4, requires_grad=True)
    loss = DarknetCIoU.apply(codes, codes.detach(), codes.detach(), torch.zeros(0), 0.07, 5.0)
    assert loss == 0
    loss.backward()
    assert codes.grad.shape == (0, 4)
