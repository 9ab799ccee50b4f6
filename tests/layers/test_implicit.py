"""Implicit knowledge: YOLOR's numbers, and a plain convolution that equals it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detcli.layers.conv import Conv2d
from detcli.layers.implicit import ImplicitConv2d
from tests.fixtures.blocks import BlockFixture


def copies(channels: int) -> ImplicitConv2d:
    """1x1, and the convolution itself changes nothing; nor do the vectors."""
    part = ImplicitConv2d(channels, channels, 1)
    with torch.no_grad():
        part.weight.copy_(torch.eye(channels)[:, :, None, None])
        part.bias.zero_()
        part.add.zero_()
        part.multiply.fill_(1)
    return part


@pytest.mark.parametrize(("name", "vector"), [("implicit_a", "add"), ("implicit_m", "multiply")])
def test_equals_yolor(name: str, vector: str) -> None:
    fixture = BlockFixture(name)
    part = copies(32)
    with torch.no_grad():
        getattr(part, vector).copy_(fixture.state["implicit"].flatten())
    x = fixture.input.clone().requires_grad_()
    y = part(x)
    (y * fixture.cotangent).sum().backward()
    assert fixture.error("output", y) < 1e-5
    assert fixture.error("grad_input", x.grad) < 1e-5
    assert fixture.error("grad/implicit", getattr(part, vector).grad.view(1, 32, 1, 1)) < 1e-4


def test_vectors_start_as_published() -> None:
    torch.manual_seed(0)
    part = ImplicitConv2d(4096, 4096, 1)
    for vector, mean in ((part.add, 0.0), (part.multiply, 1.0)):
        assert vector.mean().item() == pytest.approx(mean, abs=2e-3)
        assert vector.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("kernel", [1, 3])
def test_is_what_it_says_in_three_steps(kernel: int) -> None:
    """Values and gradients of adding (to the padding too), convolving, multiplying."""
    torch.manual_seed(0)
    part = ImplicitConv2d(64, 70, kernel).double()
    nn.init.normal_(part.add)
    x = torch.randn(2, 64, 18, 21, dtype=torch.float64)
    pad = kernel // 2
    grown = F.pad(x, (pad,) * 4) + part.add[:, None, None]
    steps = F.conv2d(grown, part.weight, part.bias) * part.multiply[:, None, None]
    cotangent = torch.randn_like(steps)
    want = torch.autograd.grad((steps * cotangent).sum(), list(part.parameters()))
    got = torch.autograd.grad((part(x) * cotangent).sum(), list(part.parameters()))
    torch.testing.assert_close(part(x), steps)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kernel", [1, 3])
def test_fused_is_the_same_function(kernel: int) -> None:
    torch.manual_seed(0)
    part = ImplicitConv2d(64, 64, kernel)
    nn.init.normal_(part.add)
    x = torch.randn(2, 64, 18, 21)
    one = part.fused()
    assert type(one) is Conv2d
    assert torch.equal(one(x), part(x))
