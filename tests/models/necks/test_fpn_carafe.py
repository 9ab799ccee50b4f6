"""The pyramid with CARAFE."""

from __future__ import annotations

import pytest
import torch

from detcli.models.necks.fpn_carafe import CarafeFPN

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_level_is_enlarged() -> None:
    torch.manual_seed(0)
    neck = CarafeFPN((8, 16, 24, 32), out_channels=16)
    maps = [torch.randn(2, c, 56 // s, 72 // s) for c, s in ((8, 1), (16, 2), (24, 4), (32, 8))]
    levels = neck(maps)
    assert neck.strides == (4, 8, 16, 32, 64)
    sides = [tuple(level.shape[2:]) for level in levels]
    assert sides == [(56, 72), (28, 36), (14, 18), (7, 9), (4, 5)]
    tops = [lateral(x) for lateral, x in zip(neck.lateral, [*maps, maps[-1]], strict=True)]
    merged = tops[4]
    torch.testing.assert_close(levels[4], neck.output[4](merged))
    for level in (3, 2, 1, 0):
        fine = neck.upsample[level](merged)
        height, width = sides[level]
        merged = tops[level] + fine[:, :, :height, :width]
        torch.testing.assert_close(levels[level], neck.output[level](merged))
    sum(level.sum() for level in levels).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())
