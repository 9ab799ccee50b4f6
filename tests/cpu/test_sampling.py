"""Bilinear samples of several maps against a loop over the formula of deformable attention (arXiv
2010.04159, equation 3)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detcli.cpu import sampling
from detcli.cpu.sampling import CornerSums, sample_rows
from detcli.layers.sampling import sample_grids

SHAPES = ((4, 5), (2, 3))
BATCH, QUERIES, HEADS, POINTS, CHANNELS = 2, 3, 2, 3, 4  # channels of a head


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Values, places, some of which are outside, and weights."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(height * width for height, width in SHAPES)
    values = torch.randn(BATCH, count, HEADS, CHANNELS, generator=generator)
    per_query = (BATCH, QUERIES, HEADS, len(SHAPES), POINTS)
    places = torch.rand(*per_query, 2, generator=generator) * 1.4 - 0.2
    return values, places, torch.rand(*per_query, generator=generator)


def bilinear(cells: Tensor, x: float, y: float) -> Tensor:
    """The value at x, y of cells (h, w, D), whose middles are at halves; zero outside."""
    height, width, _ = cells.shape
    total = torch.zeros_like(cells[0, 0])
    for row in (math.floor(y - 0.5), math.floor(y - 0.5) + 1):
        for column in (math.floor(x - 0.5), math.floor(x - 0.5) + 1):
            share = (1 - abs(y - 0.5 - row)) * (1 - abs(x - 0.5 - column))
            if 0 <= row < height and 0 <= column < width:
                total = total + share * cells[row, column]
    return total


@pytest.mark.parametrize("sample", [sample_grids, sample_rows])
def test_samples_are_those_of_a_loop(sample: Any) -> None:
    values, places, weights = inputs()
    got = sample(values, places, weights, SHAPES).view(BATCH, QUERIES, HEADS, CHANNELS)
    maps = values.split([height * width for height, width in SHAPES], dim=1)
    for image in range(BATCH):
        for query in range(QUERIES):
            for head in range(HEADS):
                want = torch.zeros(CHANNELS)
                for level, (height, width) in enumerate(SHAPES):
                    cells = maps[level][image, :, head].view(height, width, CHANNELS)
                    for point in range(POINTS):
                        x, y = places[image, query, head, level, point].tolist()
                        share = weights[image, query, head, level, point]
                        want += share * bilinear(cells, x * width, y * height)
                torch.testing.assert_close(got[image, query, head], want, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 2**16))
@settings(deadline=None, max_examples=30)
def test_both_ways_agree_and_so_do_their_gradients(seed: int) -> None:
    found = []
    for sample in (sample_grids, sample_rows):
        arguments = [x.double().requires_grad_() for x in inputs(seed)]
        mixed = sample(*arguments, SHAPES)
        assert mixed.shape == (BATCH, QUERIES, HEADS * CHANNELS)
        found.append((mixed, *torch.autograd.grad(mixed.square().sum(), arguments)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("block", [1, 2, 512])
def test_corner_sums_and_their_gradients(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    first = torch.tensor([[0, 5, 5], [1, 0, 4], [2, 2, 2]], dtype=torch.int32)
    weights = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    corners = first[:, None].long() + torch.tensor([0, 1, 2, 3])[:, None]
    want = (rows[corners] * weights[..., None]).sum((1, 2))
    torch.testing.assert_close(CornerSums.apply(rows, first, weights, 2), want)
    torch.autograd.gradcheck(lambda x, w: CornerSums.apply(x, first, w, 2), (rows, weights))


def test_no_images() -> None:
    arguments = [x[:0].requires_grad_() for x in inputs()]
    mixed = sample_rows(*arguments, SHAPES)
    assert mixed.shape == (0, QUERIES, HEADS * CHANNELS)
    assert [x.shape for x in torch.autograd.grad(mixed.sum(), arguments)] == [
        x.shape for x in arguments
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_a_place_that_is_no_number_gives_no_crash(bad: float) -> None:
    """A diverging training ends with a word about its loss, not with an index error."""
    values, places, weights = inputs()
    places[0, 0, 0, 0, 0] = bad
    mixed = sample_rows(values, places, weights, SHAPES)
    assert mixed[0, 0].isnan().any() == math.isnan(bad)
    assert mixed[1].isfinite().all()
