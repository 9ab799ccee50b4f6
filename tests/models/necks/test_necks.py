"""PAN, BiFPN, UNet++ and ASPP before the pyramid, each against a plain re-telling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.models.necks.bifpn import EPS, BiFPN, Node
from detcli.models.necks.fpn import FPN
from detcli.models.necks.pan import PAN
from detcli.models.necks.unet_pp import UNetPP
from detcli.models.pyramid import NECKS

WIDTHS = (6, 8, 10, 12)
LEVELS = {"out_channels": 4, "min_level": 3, "max_level": 7}
EXTRA = {"extra_from": "p5", "extra_relu": False}
FPN_KEYS: dict[str, Any] = {
    **LEVELS,
    **EXTRA,
    "upsample": "nearest",
    "conv": "plain",
    "aspp": None,
}
KEYS: dict[str, dict[str, Any]] = {
    "fpn": FPN_KEYS,
    "pan": FPN_KEYS,
    "bifpn": {**LEVELS, "repeats": 2, "norm": "bn"},
    "unet_pp": {**LEVELS, **EXTRA, "norm": "none"},
}


def neck(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return NECKS[name](WIDTHS, **{**KEYS[name], **changes}).double()


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


@pytest.mark.parametrize(("min_level", "max_level"), [(3, 7), (2, 6), (4, 5)])
def test_bifpn_is_that_of_the_paper(min_level: int, max_level: int) -> None:
    part: BiFPN = neck("bifpn", min_level=min_level, max_level=max_level).eval()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in part.named_parameters():
        if name.endswith("shares"):  # one of them below 0
            parameter.data = torch.rand(parameter.shape, generator=generator).double() - 0.2
    maps = backbone_maps()
    inputs = list(maps[min_level - 2 :])
    levels = [
        lateral.norm(F.conv2d(x, lateral.conv.weight))
        for x, lateral in zip(inputs, part.lateral, strict=False)
    ]
    if max_level > 5:
        last = part.lateral[-1]
        levels.append(halved(last.norm(F.conv2d(inputs[-1], last.conv.weight))))
    while len(levels) < max_level - min_level + 1:
        levels.append(halved(levels[-1]))
    last = len(levels) - 1
    for layer in part.layers:
        middle = {last: levels[last]}
        for i in range(last - 1, -1, -1):
            middle[i] = node(layer.down[i], levels[i], nearest(middle[i + 1], levels[i]))
        out = [middle[0]]
        for i in range(1, last):
            out.append(node(layer.up[i - 1], levels[i], middle[i], halved(out[-1])))
        out.append(node(layer.up[last - 1], levels[last], halved(out[-1])))
        levels = out
    assert_same(part(maps), levels)


def test_equal_shares_are_a_mean() -> None:
    """All but for the number that keeps the quotient finite: 3 / (3 + EPS)."""
    part = Node(3, 8, norm="bn").eval()
    maps = [torch.randn(1, 8, 5, 4) for _ in range(3)]
    seen: list[Tensor] = []
    part.depthwise.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    part(*maps)
    mean = sum(maps) / (3 + EPS)
    torch.testing.assert_close(seen[0], F.silu(mean))


def test_shares_never_decay() -> None:
    from detcli.engine.train.optim import parameter_groups
    from detcli.recipe.sections.optim import Optim

    part = Node(2, 8, norm="bn")
    groups = parameter_groups(part, Optim(weight_decay=0.5), 0.1)
    (free,) = [group for group in groups if group["weight_decay"] == 0]
    assert len(free["params"]) == 1
    assert free["params"][0] is part.shares


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


@pytest.mark.parametrize("kind", [FPN, PAN])
def test_aspp_stands_before_the_lateral_of_c5(kind: type[FPN]) -> None:
    """Nothing else changes: neither the other levels' laterals nor P6 from C5."""
    name = "fpn" if kind is FPN else "pan"
    aspp = {"rates": (1, 2), "channels": 64, "norm": "gn"}
    part: FPN = neck(name, aspp=aspp, extra_from="c5")
    maps = backbone_maps()
    seen: list[Tensor] = []
    part.lateral[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    levels = part(maps)
    torch.testing.assert_close(seen[0], part.aspp(maps[-1]))
    torch.testing.assert_close(levels[3], part.extra[0](maps[-1]))
    plain = FPN((*WIDTHS[:-1], 64), **FPN_KEYS).double()
    plain.lateral.load_state_dict(part.lateral.state_dict())
    plain.output.load_state_dict(part.output.state_dict())
    want = plain.own_levels([*maps[:-1], part.aspp(maps[-1])])
    assert_same(FPN.own_levels(part, maps), want)


def test_duc_and_nearest_begin_alike() -> None:
    for name in ("fpn", "pan"):
        plain, duc = neck(name), neck(name, upsample="duc")
        missing, unexpected = duc.load_state_dict(plain.state_dict(), strict=False)
        assert all(key.startswith("upsample.") for key in missing)
        assert not unexpected
        assert_same(duc(backbone_maps()), plain(backbone_maps()))


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
