"""What every neck must do."""

from __future__ import annotations

import pytest
import torch

from tests.models.necks.maps import KEYS, backbone_maps, neck


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("size", [(64, 64), (33, 97), (32, 200)])
def test_levels_on_any_sides_and_gradients_everywhere(name: str, size: tuple[int, int]) -> None:
    part = neck(name).float()
    levels = part([x.float() for x in backbone_maps(*size)])
    assert part.strides == (8, 16, 32, 64, 128)
    for level, stride in zip(levels, part.strides, strict=True):
        assert level.shape == (2, 4, -(-size[0] // stride), -(-size[1] // stride))
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    for key, parameter in part.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
