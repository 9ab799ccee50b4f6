"""Norms by image against the group norm paper's definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detcli.layers.norm import NORMS, build_norm

# Sets of values that share mean and variance, as dimensions of (B, 32, C / 32, H, W)
GROUPED = {"gn": (2, 3, 4), "ln": (1, 2, 3, 4), "in": (3, 4)}


def by_the_definition(norm: nn.Module, name: str, x: Tensor) -> Tensor:
    """arXiv 1803.08494, equations 1 to 3 and 6."""
    grouped = x.unflatten(1, (32, -1))
    dims = GROUPED[name]
    mean = grouped.mean(dim=dims, keepdim=True)
    deviation = (grouped - mean).pow(2).mean(dim=dims, keepdim=True).add(1e-5).sqrt()
    scaled = ((grouped - mean) / deviation).flatten(1, 2)
    weight, bias = norm.get_parameter("weight"), norm.get_parameter("bias")
    return scaled * weight[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize("name", GROUPED)
def test_by_image(name: str) -> None:
    torch.manual_seed(0)
    norm = build_norm(name, 64)
    assert norm is not None
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 64, 5, 7) * 3 + 1
    torch.testing.assert_close(norm(x), by_the_definition(norm, name, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm(x)[1:2], norm(x[1:2]))  # no image sees another


def test_instance_norm_is_pytorchs() -> None:
    torch.manual_seed(0)
    norm, peer = build_norm("in", 12), nn.InstanceNorm2d(12, affine=True)
    assert norm is not None
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    peer.load_state_dict(norm.state_dict())
    x = torch.randn(2, 12, 6, 5)
    torch.testing.assert_close(norm(x), peer(x))


def test_instance_norm_of_a_single_cell_is_the_shift() -> None:
    norm = build_norm("in", 6)
    assert norm is not None
    nn.init.normal_(norm.get_parameter("bias"))
    x = torch.randn(1, 6, 1, 1, requires_grad=True)
    y = norm(x)
    # up to rounding, which the division by the root of eps enlarges 300 times
    torch.testing.assert_close(y[0, :, 0, 0], norm.get_parameter("bias"), rtol=0, atol=1e-3)
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad == 0).all()


@pytest.mark.parametrize("name", NORMS)
def test_two_parameters_per_channel(name: str) -> None:
    norm = build_norm(name, 64)
    assert norm is not None
    assert sum(parameter.numel() for parameter in norm.parameters()) == 2 * 64
    assert norm.eps == 1e-5
