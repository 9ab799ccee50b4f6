"""UNet++ against a plain re-telling."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from detcli.models.necks.unet_pp import UNetPP
from tests.models.necks.maps import assert_same, backbone_maps, conv, nearest, neck


def unet_by_the_paper(part: UNetPP, maps: Sequence[Tensor], column: int) -> list[Tensor]:
    """X^(i, j) = H([X^(i, k) for k < j, U(X^(i + 1, j - 1))]), and the levels up to a column."""
    count = len(part.lateral)
    x: dict[tuple[int, int], Tensor] = {
        (i, 0): conv(maps[-count + i], part.lateral[i]) for i in range(count)
    }
    for j in range(1, count):
        for i in range(count - j):
            before = [x[i, k] for k in range(j)]
            joined = torch.cat([*before, nearest(x[i + 1, j - 1], x[i, 0])], dim=1)
            x[i, j] = conv(joined, part.columns[j - 1][i].conv).relu()
    levels = [conv(x[i, min(column, count - 1 - i)], part.output[i]) for i in range(count)]
    for extra in part.extra:
        levels.append(conv(levels[-1], extra, stride=2))
    return levels


@pytest.mark.parametrize("min_level", [2, 3, 4])
def test_unet_pp_is_that_of_the_paper(min_level: int) -> None:
    part: UNetPP = neck("unet_pp", min_level=min_level)
    assert_same(part(backbone_maps()), unet_by_the_paper(part, backbone_maps(), 9))


def test_deep_supervision_gives_the_other_columns_too() -> None:
    part: UNetPP = neck("unet_pp", min_level=2, deep_supervision=True)
    maps = backbone_maps()
    want = [unet_by_the_paper(part, maps, column) for column in (3, 2, 1)]
    assert_same(part(maps), [torch.cat(levels) for levels in zip(*want, strict=True)])
    assert_same(part.eval()(maps), want[0])
