"""What the pyramid can have before and between its maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detcli.models.necks.fpn import FPN
from detcli.models.necks.pan import PAN
from detcli.recipe.sections.network import Neck
from tests.models.necks.maps import FPN_KEYS, WIDTHS, assert_same, backbone_maps, neck


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
    plain = FPN((*WIDTHS[:-1], 64), Neck(**FPN_KEYS)).double()
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
