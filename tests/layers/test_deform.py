"""Deformable convolutions: the reference's numbers, a loop over the taps, and their start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from detcli.layers.deform import DeformConv2d
from tests.fixtures.blocks import BlockFixture

BLOCKS = [  # 32 to 16 channels
    ("dcnv1", {"modulated": False, "bias": False}),
    ("dcnv1_g4_s2", {"modulated": False, "bias": False, "offset_groups": 4, "stride": 2}),
    ("dcnv2", {"modulated": True}),
    ("dcnv2_g2_dil2", {"modulated": True, "offset_groups": 2, "dilation": 2}),
]


@pytest.mark.parametrize(("name", "keywords"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_equals_mmcv(name: str, keywords: dict[str, int]) -> None:
    fixture = BlockFixture(name)
    part = DeformConv2d(32, 16, **keywords)
    part.load_state_dict(fixture.state)
    errors = fixture.errors(part, lambda key: key)
    assert errors.pop("output") < 1e-5
    assert max(errors.values()) < 1e-4, errors


def read(plane: Tensor, y: float, x: float) -> Tensor:
    """Bilinear value of (C, H, W) at a place in cells; zero outside."""
    value = torch.zeros(plane.shape[0], dtype=plane.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[1] and 0 <= column < plane.shape[2]:
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                value += share * plane[:, row, column]
    return value


def by_the_papers(part: DeformConv2d, x: Tensor) -> Tensor:
    """Equation 2 of the first paper, with the weights of the second where there are any."""
    stride, dilation = part.stride[0], part.dilation[0]
    codes = part.conv_offset(x)
    groups = part.num_offsets // 18
    images, _, height, width = codes.shape
    y = torch.zeros(images, part.out_channels, height, width, dtype=x.dtype)
    share = x.shape[1] // groups
    for image in range(images):
        for row in range(height):
            for column in range(width):
                for group in range(groups):
                    plane = x[image, group * share : (group + 1) * share]
                    weight = part.weight[:, group * share : (group + 1) * share]
                    for tap in range(9):
                        at = codes[image, :, row, column]
                        dy, dx = at[group * 18 + 2 * tap], at[group * 18 + 2 * tap + 1]
                        value = read(
                            plane,
                            row * stride + (tap // 3 - 1) * dilation + float(dy),
                            column * stride + (tap % 3 - 1) * dilation + float(dx),
                        )
                        if codes.shape[1] > part.num_offsets:
                            value *= at[part.num_offsets + group * 9 + tap].sigmoid()
                        y[image, :, row, column] += weight[:, :, tap // 3, tap % 3] @ value
    return y + (0 if part.bias is None else part.bias[:, None, None])


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 2), (1, 2, 2)])
def test_equals_a_plain_loop(modulated: bool, stride: int, dilation: int, groups: int) -> None:
    torch.manual_seed(0)
    part = DeformConv2d(
        4, 3, stride, dilation=dilation, modulated=modulated, offset_groups=groups
    ).double()
    nn.init.normal_(part.conv_offset.weight, std=0.3)
    x = torch.randn(1, 4, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(part(x), by_the_papers(part, x))


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3)])
def test_begins_as_the_plain_convolution_or_half_of_it(stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 11)
    for modulated in (False, True):
        part = DeformConv2d(
            8, 8, stride, dilation=dilation, bias=False, modulated=modulated, offset_groups=2
        )
        plain = nn.Conv2d(8, 8, 3, stride, dilation, dilation, bias=False)
        plain.load_state_dict({"weight": part.weight})
        want = plain(x)
        torch.testing.assert_close(part(x), want / 2 if modulated else want)


def test_number_of_parameters() -> None:
    for modulated, per_group in ((False, 18), (True, 27)):
        part = DeformConv2d(16, 32, bias=False, modulated=modulated, offset_groups=4)
        plain = nn.Conv2d(16, 32, 3, bias=False)
        extra = sum(p.numel() for p in part.parameters()) - plain.weight.numel()
        assert extra == 4 * per_group * (9 * 16 + 1)


def test_offsets_learn_from_the_first_step() -> None:
    """Zero weights get a gradient, because the map changes from cell to cell."""
    torch.manual_seed(0)
    part = DeformConv2d(8, 8, modulated=True)
    part(torch.randn(2, 8, 6, 6)).pow(2).sum().backward()
    for parameter in part.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_autocast_moves_taps_in_full_precision() -> None:
    torch.manual_seed(0)
    part = DeformConv2d(8, 8, modulated=True)
    nn.init.normal_(part.conv_offset.weight, std=0.3)
    x = torch.randn(1, 8, 6, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = part(x)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, part(x.float()).bfloat16())
