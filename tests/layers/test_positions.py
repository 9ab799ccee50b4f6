"""Padding masks and codes of positions, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.layers.positions import LearnedPositions, SinePositions, valid_cells

sides = st.integers(1, 70)


@settings(deadline=None, max_examples=60)
@given(
    canvas=st.tuples(sides, sides),
    sizes=st.lists(st.tuples(sides, sides), min_size=1, max_size=3),
    stride=st.sampled_from([1, 3, 8, 32]),
)
def test_cells_are_those_of_a_resized_mask(
    canvas: tuple[int, int], sizes: list[tuple[int, int]], stride: int
) -> None:
    mask = torch.ones(len(sizes), *canvas)
    for image, (height, width) in zip(mask, sizes, strict=True):
        image[:height, :width] = 0
    grid = (-(-canvas[0] // stride), -(-canvas[1] // stride))
    want = F.interpolate(mask[None], size=grid)[0] == 0  # nearest, as DETR does it
    got = valid_cells(sizes, canvas, grid, torch.device("cpu"))
    assert torch.equal(got, want)
    assert got[:, 0, 0].all()


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_sine_codes(offset: float) -> None:
    """The valid part is 3 x 2 cells of 4 x 4; every number by the formula."""
    channels = 8
    valid = torch.zeros(1, 4, 4, dtype=torch.bool)
    valid[0, :3, :2] = True
    codes = SinePositions(channels, offset=offset)(valid)
    assert codes.shape == (1, 4, 4, channels)
    for y in range(3):
        for x in range(2):
            want = []
            for number, last in ((y + 1, 3), (x + 1, 2)):
                turn = (number - offset) / (last + 1e-6) * 2 * math.pi
                for pair in range(channels // 4):
                    wave = 10000 ** (2 * pair / (channels // 2))
                    want += [math.sin(turn / wave), math.cos(turn / wave)]
            assert codes[0, y, x].tolist() == pytest.approx(want, abs=1e-6)
    assert codes.isfinite().all()


def test_learned_codes() -> None:
    positions = LearnedPositions(6)
    codes = positions(torch.ones(2, 3, 4, dtype=torch.bool))
    assert codes.shape == (2, 3, 4, 6)
    assert torch.equal(codes[0, 2, 1, :3], positions.columns[1])
    assert torch.equal(codes[1, 2, 1, 3:], positions.rows[2])
