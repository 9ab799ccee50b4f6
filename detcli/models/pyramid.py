"""Backbone and neck from their sections of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from detcli.models.backbones.hrnet import HRNet, build_hrnet
from detcli.models.backbones.resnet import ResNet, build_resnet
from detcli.models.necks.fpn import FPN
from detcli.models.necks.fpn_carafe import CarafeFPN
from detcli.models.necks.hrfpn import HRFPN
from detcli.models.necks.nas_fcos import NASFCOSNeck

BACKBONES: dict[str, Callable[..., ResNet | HRNet]] = {"resnet": build_resnet, "hrnet": build_hrnet}
Pyramid: TypeAlias = FPN | CarafeFPN | HRFPN | NASFCOSNeck
NECKS: dict[str, type[Pyramid]] = {
    "fpn": FPN,
    "fpn_carafe": CarafeFPN,
    "hrfpn": HRFPN,
    "nas_fcos": NASFCOSNeck,
}


def build_pyramid(
    backbone: Mapping[str, Any], neck: Mapping[str, Any]
) -> tuple[ResNet | HRNet, Pyramid]:
    """A backbone and the neck that fits its maps; the keywords are those of the backbone's builder
    and of the neck's class, with the name of the family as `name`."""
    backbone_keywords, neck_keywords = dict(backbone), dict(neck)
    trunk = BACKBONES[backbone_keywords.pop("name")](**backbone_keywords)
    return trunk, NECKS[neck_keywords.pop("name")](trunk.out_channels, **neck_keywords)
