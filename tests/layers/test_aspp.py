"""ASPP: the reference's numbers, torchvision itself, and what its mean sees."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP as Peer

from detcli.layers.aspp import ASPP
from tests.fixtures.blocks import BlockFixture

RATES = (2, 4, 6)


def ours(name: str) -> str:
    name = re.sub(r"^convs\.4\.1\.", "pooled.conv.", name)
    name = re.sub(r"^convs\.4\.2\.", "pooled.norm.", name)
    name = re.sub(r"^(?:convs\.(\d)|project)\.0\.", _part("conv"), name)
    return re.sub(r"^(?:convs\.(\d)|project)\.1\.", _part("norm"), name)


def _part(kind: str):
    return lambda found: f"branches.{found[1]}.{kind}." if found[1] else f"project.{kind}."


def test_equals_the_reference() -> None:
    fixture = BlockFixture("aspp")
    part = ASPP(32, channels=16, rates=RATES, norm="bn")
    part.load_state_dict({ours(key): value for key, value in fixture.state.items()})
    errors = fixture.errors(part, ours)
    assert errors.pop("output") < 1e-5
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize("size", [(7, 9), (1, 1)])
def test_equals_torchvision_in_training(size: tuple[int, int]) -> None:
    """With statistics of the batch, and the gradient of the input."""
    torch.manual_seed(0)
    peer = Peer(12, RATES, out_channels=8)
    peer.project[3] = nn.Identity()  # its drop-out
    part = ASPP(12, channels=8, rates=RATES, norm="bn")
    part.load_state_dict({ours(key): value for key, value in peer.state_dict().items()})
    x = torch.randn(3, 12, *size)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [network(each) for network, each in zip((part, peer), inputs, strict=True)]
    torch.testing.assert_close(outputs[0], outputs[1])
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_every_cell_sees_the_whole_map(norm: str) -> None:
    part = ASPP(4, channels=64, rates=(1,), norm=norm).eval()
    x = torch.randn(1, 4, 20, 20, requires_grad=True)
    part(x)[0, :, 0, 0].sum().backward()
    assert (x.grad.abs().sum(dim=1) > 0).all()


def test_a_group_norm_needs_one_image_only() -> None:
    y = ASPP(4, channels=64, rates=RATES, norm="gn")(torch.randn(1, 4, 5, 6))
    assert y.shape == (1, 64, 5, 6)
    assert y.isfinite().all()
