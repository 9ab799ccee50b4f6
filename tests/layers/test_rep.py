"""RepConv: YOLOv7's numbers, and one convolution that equals the three branches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from detcli.layers.rep import RepConv
from tests.fixtures.blocks import BlockFixture

NAMES = {
    "rbr_dense.0": "wide.conv",
    "rbr_dense.1": "wide.norm",
    "rbr_1x1.0": "point.conv",
    "rbr_1x1.1": "point.norm",
    "rbr_identity": "identity",
}


def ours(name: str) -> str:
    """Our name of one of YOLOv7's parameters."""
    theirs = max((old for old in NAMES if name.startswith(f"{old}.")), key=len)
    return name.replace(theirs, NAMES[theirs])


def trained(in_channels: int, out_channels: int, stride: int = 1) -> RepConv:
    """A RepConv whose norms have seen something; in training mode."""
    torch.manual_seed(0)
    part = RepConv(in_channels, out_channels, stride)
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(5):
            part(torch.randn(4, in_channels, 9, 11) * 2 + 1)
    return part


@pytest.mark.parametrize(("name", "width", "stride"), [("repconv", 32, 1), ("repconv_s2", 16, 2)])
def test_equals_yolov7(name: str, width: int, stride: int) -> None:
    fixture = BlockFixture(name)
    part = RepConv(32, width, stride)
    part.load_state_dict({ours(key): value for key, value in fixture.state.items()})
    # YOLOv7 activates the sum itself; here it is what follows that activates.
    errors = fixture.errors(nn.Sequential(part, nn.SiLU()), lambda key: f"0.{ours(key)}")
    assert errors.pop("output") < 1e-5
    assert max(errors.values()) < 1e-4, errors
    one = part.fused()
    assert fixture.error("deploy_weight", one.weight) < 1e-5
    assert fixture.error("deploy_bias", one.bias) < 1e-5


@pytest.mark.parametrize(("out_channels", "stride"), [(64, 1), (48, 1), (64, 2)])
def test_fused_equals_the_branches(out_channels: int, stride: int) -> None:
    part = trained(64, out_channels, stride)
    x = torch.randn(2, 64, 18, 21)
    with torch.no_grad():
        one = copy.deepcopy(part).fused()
        want = part.eval()(x)
        assert (one(x) - want).abs().max() < 1e-4
    assert (part.identity is not None) == (out_channels == 64 and stride == 1)
    assert isinstance(one, nn.Conv2d)
    assert one.weight.requires_grad


def test_branches_are_normalised_one_by_one_in_training() -> None:
    part = RepConv(8, 8)
    y = part(torch.randn(4, 8, 9, 11) * 3 + 2)
    # Three branches of mean 0.
    assert y.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(part.identity.running_mean, torch.full((8,), 0.2), atol=0.1, rtol=0)
