"""Backbone and neck from their sections of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from detcli.models.backbones.hrnet import HRNet, build_hrnet
from detcli.models.backbones.resnet import ResNet, build_resnet
from detcli.models.backbones.timm import TimmBackbone, build_timm
from detcli.models.necks.bifpn import BiFPN
from detcli.models.necks.fpn import FPN
from detcli.models.necks.fpn_carafe import CarafeFPN
from detcli.models.necks.hrfpn import HRFPN
from detcli.models.necks.nas_fcos import NASFCOSNeck
from detcli.models.necks.pan import PAN
from detcli.models.necks.unet_pp import UNetPP

Trunk: TypeAlias = ResNet | HRNet | TimmBackbone
BACKBONES: dict[str, Callable[..., Trunk]] = {
    "resnet": build_resnet,
    "hrnet": build_hrnet,
    "timm": build_timm,
}
Pyramid: TypeAlias = FPN | PAN | BiFPN | UNetPP | CarafeFPN | HRFPN | NASFCOSNeck
NECKS: dict[str, type[Pyramid]] = {
    "fpn": FPN,
    "pan": PAN,
    "bifpn": BiFPN,
    "unet_pp": UNetPP,
    "fpn_carafe": CarafeFPN,
    "hrfpn": HRFPN,
    "nas_fcos": NASFCOSNeck,
}


def build_pyramid(backbone: Mapping[str, Any], neck: Mapping[str, Any]) -> tuple[Trunk, Pyramid]:
    """A backbone and the neck that fits its maps; the keywords are those of the backbone's builder
    and of the neck's class, with the name of the family as `name`."""
    backbone_keywords, neck_keywords = dict(backbone), dict(neck)
    trunk = BACKBONES[backbone_keywords.pop("name")](**backbone_keywords)
    pyramid = NECKS[neck_keywords.pop("name")](trunk.out_channels, **neck_keywords)
    if isinstance(trunk, TimmBackbone):
        trunk.train_for(pyramid.strides[0])
    return trunk, pyramid
