"""BiFPN against a plain re-telling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detcli.models.necks.bifpn import EPS, BiFPN, Node
from tests.models.necks.maps import assert_same, backbone_maps, halved, nearest, neck, node


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
