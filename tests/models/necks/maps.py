"""Maps of a backbone, and plain operations on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.models.necks.bifpn import EPS, Node
from detcli.models.pyramid import NECKS
from detcli.recipe.sections.network import AnyNeck
from tests.sections import section

WIDTHS = (6, 8, 10, 12)


LEVELS = {"out_channels": 4, "min_level": 3, "max_level": 7}


EXTRA = {"extra_from": "p5", "extra_relu": False}


FPN_KEYS: dict[str, Any] = {**LEVELS, **EXTRA, "upsample": "nearest", "conv": "plain", "aspp": None}


KEYS: dict[str, dict[str, Any]] = {
    "fpn": FPN_KEYS,
    "pan": FPN_KEYS,
    "bifpn": {**LEVELS, "repeats": 2, "norm": "bn"},
    "unet_pp": {**LEVELS, **EXTRA, "norm": "none"},
}


def neck(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    options = section(AnyNeck, **{"name": name, **KEYS[name], **changes})
    return NECKS[name](WIDTHS, options).double()


def backbone_maps(height: int = 50, width: int = 70, images: int = 2) -> list[Tensor]:
    """C2 to C5, most of them with odd sides."""
    generator = torch.Generator().manual_seed(1)
    maps = []
    for level, channels in enumerate(WIDTHS):
        stride = 4 * 2**level
        size = (-(-height // stride), -(-width // stride))
        maps.append(torch.randn(images, channels, *size, generator=generator).double())
    return maps


def nearest(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def assert_same(mine: Sequence[Tensor], want: Sequence[Tensor]) -> None:
    assert len(mine) == len(want)
    for a, b in zip(mine, want, strict=True):
        torch.testing.assert_close(a, b)


def conv(x: Tensor, part: nn.Conv2d, **options: Any) -> Tensor:
    return F.conv2d(x, part.weight, part.bias, padding=part.kernel_size[0] // 2, **options)


def node(part: Node, *maps: Tensor) -> Tensor:
    shares = [max(share.item(), 0.0) for share in part.shares]
    fused = torch.zeros_like(maps[0])
    for share, x in zip(shares, maps, strict=True):
        fused = fused + share / (EPS + sum(shares)) * x
    y = fused * torch.sigmoid(fused)
    y = F.conv2d(y, part.depthwise.weight, padding=1, groups=y.shape[1])
    return part.pointwise.norm(F.conv2d(y, part.pointwise.conv.weight))


def halved(x: Tensor) -> Tensor:
    """The largest of the 3 x 3 cells around every second cell, one by one."""
    height, width = x.shape[-2:]
    rows = []
    for i in range(0, height, 2):
        row = []
        for j in range(0, width, 2):
            row.append(x[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].amax(dim=(2, 3)))
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)
