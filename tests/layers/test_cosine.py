"""The cosine classifier against patches written out one by one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from detcli.layers.cosine import CosineConv2d


def test_equals_the_cosine_of_every_patch() -> None:
    torch.manual_seed(0)
    layer = CosineConv2d(4, 6, scale=7.0)
    x = torch.randn(2, 4, 5, 3)
    patches = F.unfold(x, 3, padding=1)  # (B, 4 * 9, cells)
    filters = layer.weight.flatten(1)
    want = 7 * F.cosine_similarity(patches[:, None], filters[None, :, :, None], dim=2)
    torch.testing.assert_close(layer(x).flatten(2), want)
    assert layer(x).abs().max() <= 7


def test_lengths_do_not_count() -> None:
    torch.manual_seed(0)
    layer = CosineConv2d(4, 6, scale=1.0)
    x = torch.randn(1, 4, 4, 4)
    before = layer(x)
    torch.testing.assert_close(layer(x * 100), before)
    with torch.no_grad():
        layer.weight *= torch.rand(6, 1, 1, 1) + 0.5
    torch.testing.assert_close(layer(x), before)


def test_an_empty_patch_has_cosine_0_and_a_finite_gradient() -> None:
    layer = CosineConv2d(3, 2, scale=30.0)
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    y = layer(x)
    assert (y == 0).all()
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


def test_low_precision_stays_close() -> None:
    torch.manual_seed(0)
    layer = CosineConv2d(64, 8, scale=30.0)
    x = torch.randn(1, 64, 6, 6).relu() * 20
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x), atol=0.2, rtol=0.02)
