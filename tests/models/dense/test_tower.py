"""Rows of the levels of a head."""

from __future__ import annotations

import pytest
import torch

from detcli.models.dense.tower import flatten_levels


@pytest.mark.parametrize("width", [1, 4, 3])
def test_flat_rows_follow_the_priors(width: int) -> None:
    """Row p of the flat predictions belongs to prior p: cells row by row, anchors inside."""
    maps = []
    for level, (height, columns) in enumerate([(2, 3), (1, 2)]):
        code = torch.zeros(1, 2 * width, height, columns)
        for anchor in range(2):
            for number in range(width):
                for row in range(height):
                    for column in range(columns):
                        value = (((level * 10 + row) * 10 + column) * 10 + anchor) * 10 + number
                        code[0, anchor * width + number, row, column] = value
        maps.append(code)
    flat = flatten_levels(tuple(maps), width)[0]
    assert flat.shape == (16, width)
    assert (flat[:, 0].diff() > 0).all()
    assert (flat - flat[:, :1] == torch.arange(width)).all()
