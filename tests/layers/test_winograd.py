"""The fast convolution against PyTorch's own in double precision."""

import pytest
import torch
import torch.nn.functional as F

from detcli.layers import winograd

SHAPES = [(1, 5, 7, 4, 4), (2, 8, 3, 9, 14), (3, 16, 16, 1, 5), (1, 4, 4, 12, 3)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    images, channels, out_channels, height, width = shape
    torch.manual_seed(0)
    x = torch.randn(images, channels, height, width).contiguous(memory_format=layout)
    weight = torch.randn(out_channels, channels, 3, 3)
    bias = torch.randn(out_channels)
    grad = torch.randn(images, out_channels, height, width)
    mine = [value.clone().requires_grad_() for value in (x, weight, bias)]
    peer = [value.double().requires_grad_() for value in (x, weight, bias)]
    y = winograd.conv3x3(*mine)
    want = F.conv2d(*peer, padding=1)
    assert y.shape == want.shape
    y.backward(grad)
    want.backward(grad.double())
    for a, b in zip([y, *(m.grad for m in mine)], [want, *(p.grad for p in peer)], strict=True):
        assert (a - b).abs().max() < 2e-5 * b.abs().max()


def test_only_the_needed_gradients_are_made() -> None:
    x = torch.randn(1, 4, 8, 8)
    weight = torch.randn(4, 4, 3, 3, requires_grad=True)
    winograd.conv3x3(x, weight, None).sum().backward()
    assert weight.grad is not None
    frozen = torch.randn(4, 4, 3, 3)
    x.requires_grad_()
    winograd.conv3x3(x, frozen, None).sum().backward()
    assert x.grad is not None


def test_which_convolutions_take_it() -> None:
    wide = torch.randn(128, 128, 3, 3)
    assert winograd.pays_off(torch.randn(1, 128, 16, 16), wide)
    assert not winograd.pays_off(torch.randn(1, 128, 8, 8), wide)
    assert not winograd.pays_off(torch.randn(1, 128, 16, 16), torch.randn(128, 128, 1, 1))
    assert not winograd.pays_off(torch.randn(1, 128, 16, 16).bfloat16(), wide.bfloat16())
    assert not winograd.pays_off(torch.randn(1, 64, 16, 16), torch.randn(64, 64, 3, 3))
    learning = torch.randn(64, 64, 3, 3, requires_grad=True)
    assert winograd.pays_off(torch.randn(1, 64, 16, 16), learning)
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.pays_off(torch.randn(1, 128, 16, 16), wide)
