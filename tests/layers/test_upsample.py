"""CARAFE and DUC: the reference's numbers, the papers' sums as loops, and their starts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detcli.layers.upsample import COMPRESSED, DUC, SIDE, Carafe
from tests.fixtures.blocks import BlockFixture

NAMES = {"channel_compressor": "compress", "content_encoder": "encode"}


def ours(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    return f"{NAMES[module]}.{parameter}"


def test_equals_mmcv() -> None:
    fixture = BlockFixture("carafe")
    part = Carafe(32)
    part.load_state_dict({ours(key): value for key, value in fixture.state.items()})
    errors = fixture.errors(part, ours)
    assert errors.pop("output") < 1e-5
    assert max(errors.values()) < 1e-4, errors


def by_the_paper(part: Carafe, x: Tensor) -> Tensor:
    """Equations 1 to 4 of the paper, cell by cell; kernels are shuffled before the soft-max."""
    images, channels, height, width = x.shape
    kernels = torch.pixel_shuffle(part.encode(part.compress(x)), 2).softmax(dim=1)
    y = torch.zeros(images, channels, 2 * height, 2 * width, dtype=x.dtype)
    reach = SIDE // 2
    for row in range(2 * height):
        for column in range(2 * width):
            for index in range(SIDE**2):
                source_row = row // 2 + index // SIDE - reach
                source_column = column // 2 + index % SIDE - reach
                if 0 <= source_row < height and 0 <= source_column < width:
                    y[:, :, row, column] += (
                        kernels[:, index, row, column, None] * x[:, :, source_row, source_column]
                    )
    return y


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 2)])
def test_equals_a_plain_loop(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    part = Carafe(6).double()
    torch.nn.init.normal_(part.encode.weight)  # far from equal weights
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    torch.testing.assert_close(part(x), by_the_paper(part, x))


def test_begins_as_a_mean_of_25_cells() -> None:
    torch.manual_seed(0)
    part = Carafe(8)
    assert part.encode.weight.std().item() == pytest.approx(0.001, rel=0.05)
    x = torch.randn(1, 8, 12, 10)
    mean = torch.nn.functional.avg_pool2d(x, SIDE, stride=1, padding=SIDE // 2)
    want = mean.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(part(x), want, atol=0.02, rtol=0)


def test_a_constant_stays_one_inside() -> None:
    """The weights of a fine cell add up to 1."""
    part = Carafe(8)
    y = part(torch.full((1, 8, 7, 8), 3.0))
    torch.testing.assert_close(y[:, :, 4:-4, 4:-4], torch.full((1, 8, 6, 8), 3.0))
    assert y[:, :, 0, 0].max() < 3.0  # beyond the border is 0


def test_number_of_parameters() -> None:
    """The paper: (C + 1) x 64 of the compressor, and 100 filters of 3 x 3 x 64 with bias."""
    count = sum(parameter.numel() for parameter in Carafe(256).parameters())
    assert count == 257 * COMPRESSED + 100 * (9 * COMPRESSED + 1)


def test_low_precision_and_no_images() -> None:
    part = Carafe(8)
    with torch.autocast("cpu", torch.bfloat16):
        y = part(torch.randn(1, 8, 5, 5).bfloat16())
    assert y.dtype == torch.bfloat16
    assert part(torch.zeros(0, 8, 5, 5)).shape == (0, 8, 10, 10)


def duc_by_the_paper(part: DUC, x: Tensor) -> Tensor:
    """Cell (2 h + p, 2 w + q) of channel c is number 4 c + 2 p + q of the convolution at (h, w)."""
    maps = torch.nn.functional.conv2d(x, part.conv.weight, part.conv.bias, padding=1)
    images, channels, height, width = x.shape
    y = torch.zeros(images, channels, 2 * height, 2 * width, dtype=x.dtype)
    for channel in range(channels):
        for p in range(2):
            for q in range(2):
                y[:, channel, p::2, q::2] = maps[:, 4 * channel + 2 * p + q]
    return y


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_duc_deals_its_maps_out(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    part = DUC(6).double()
    torch.nn.init.normal_(part.conv.weight)
    torch.nn.init.normal_(part.conv.bias)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    torch.testing.assert_close(part(x), duc_by_the_paper(part, x))


@pytest.mark.parametrize("fine", [(12, 10), (11, 9)])
def test_duc_begins_as_nearest_neighbours(fine: tuple[int, int]) -> None:
    """Also where the finer map has odd sides, and the last row and column are left out."""
    x = torch.randn(2, 5, 6, 5)
    want = torch.nn.functional.interpolate(x, size=fine, mode="nearest")
    torch.testing.assert_close(DUC(5)(x)[:, :, : fine[0], : fine[1]], want)


def test_duc_learns_and_its_parameters() -> None:
    part = DUC(16)
    assert sum(parameter.numel() for parameter in part.parameters()) == 36 * 16**2 + 4 * 16
    part(torch.randn(1, 16, 4, 4)).square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in part.parameters())
