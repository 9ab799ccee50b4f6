"""PAN against a plain re-telling."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from detcli.models.necks.pan import PAN
from tests.models.necks.maps import assert_same, backbone_maps, conv, nearest, neck


@pytest.mark.parametrize("min_level", [2, 3, 4])
@pytest.mark.parametrize("source", ["c5", "p5", "pool"])
def test_pan_is_an_fpn_with_a_path_up(min_level: int, source: str) -> None:
    part: PAN = neck("pan", min_level=min_level, extra_from=source)
    maps = backbone_maps()
    used = maps[min_level - 2 :]
    inner = [conv(x, lateral) for x, lateral in zip(used, part.lateral, strict=True)]
    for i in range(len(inner) - 2, -1, -1):
        inner[i] = inner[i] + nearest(inner[i + 1], inner[i])
    sums = [conv(x, output) for x, output in zip(inner, part.output, strict=True)]
    for i in range(1, len(sums)):
        sums[i] = sums[i] + conv(sums[i - 1], part.downsample[i - 1], stride=2)
    want = [sums[0]]
    for i in range(1, len(sums)):
        want.append(conv(sums[i], part.bottom_up[i - 1]))
    top = maps[-1] if source == "c5" else want[-1]
    for i in range(2):
        top = F.max_pool2d(top, 1, 2) if source == "pool" else conv(top, part.extra[i], stride=2)
        want.append(top)
    assert_same(part([x.clone() for x in maps]), want)
