"""Deformable attention (arXiv 2010.04159): where it looks, padding, precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detcli.layers.deformable_attention import DeformableAttention

SHAPES = ((4, 5), (2, 3))
BATCH, QUERIES, POINTS = 2, 3, 3


def layer() -> DeformableAttention:
    torch.manual_seed(0)
    return DeformableAttention(8, num_heads=2, num_levels=2, num_points=POINTS)


def inputs(numbers: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    count = sum(height * width for height, width in SHAPES)
    return {
        "queries": torch.randn(BATCH, QUERIES, 8, generator=generator),
        "references": torch.rand(BATCH, QUERIES, 2, numbers, generator=generator),
        "tokens": torch.randn(BATCH, count, 8, generator=generator),
        "shapes": SHAPES,
        "valid": None,
    }


def test_first_offsets_go_around_on_squares() -> None:
    """Two heads: to the right and to the left, by 1, 2 and 3 cells."""
    bias = layer().sampling_offsets.bias.detach().view(2, 2, POINTS, 2)
    steps = torch.tensor([1.0, 2.0, 3.0])
    for level in range(2):
        torch.testing.assert_close(bias[0, level, :, 0], steps)
        torch.testing.assert_close(bias[1, level, :, 0], -steps)
        torch.testing.assert_close(bias[:, level, :, 1], torch.zeros(2, POINTS), atol=1e-6, rtol=0)


def test_offsets_are_cells_for_points_and_shares_of_boxes() -> None:
    """The same places from both kinds of reference, where a box has the right size."""
    attention = layer()
    arguments = inputs(2)
    want = attention(**arguments)
    sides = torch.tensor([[width, height] for height, width in SHAPES])
    boxes = (2 * POINTS / sides).expand(BATCH, QUERIES, -1, -1)  # half of it / points: one cell
    arguments["references"] = torch.cat([arguments["references"], boxes], dim=-1)
    torch.testing.assert_close(attention(**arguments), want)


def test_padding_counts_as_zeros() -> None:
    attention = layer()
    arguments = inputs(2)
    valid = torch.ones(arguments["tokens"].shape[:2], dtype=torch.bool)
    valid[:, 7:12] = False
    want = attention(**arguments | {"valid": valid})
    spoiled = arguments["tokens"].clone()
    spoiled[:, 7:12] = 50.0
    got = attention(**arguments | {"valid": valid, "tokens": spoiled})
    torch.testing.assert_close(got, want)
    assert not torch.allclose(attention(**arguments), want)


@pytest.mark.parametrize("numbers", [2, 4])
def test_bfloat16_samples_in_float32(numbers: int) -> None:
    attention, arguments = layer(), inputs(numbers)
    want = attention(**arguments)
    with torch.autocast("cpu", torch.bfloat16):
        got = attention(**arguments)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)
    got.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())
