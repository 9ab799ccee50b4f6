"""Backbone and neck from their sections of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

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

if TYPE_CHECKING:
    from detcli.recipe.sections import network
    from detcli.recipe.sections.models import two_stage

Trunk: TypeAlias = ResNet | HRNet | TimmBackbone
BACKBONES: dict[str, Callable[..., Trunk]] = {
    "resnet": build_resnet,
    "hrnet": build_hrnet,
    "timm": build_timm,
}
Pyramid: TypeAlias = FPN | PAN | BiFPN | UNetPP | CarafeFPN | HRFPN | NASFCOSNeck
NECKS: dict[str, Callable[..., Pyramid]] = {
    "fpn": FPN,
    "pan": PAN,
    "bifpn": BiFPN,
    "unet_pp": UNetPP,
    "fpn_carafe": CarafeFPN,
    "hrfpn": HRFPN,
    "nas_fcos": NASFCOSNeck,
}


def build_pyramid(
    backbone: network.AnyBackbone | two_stage.AnyBackbone,
    neck: network.AnyNeck | network.NasFcosNeck | two_stage.AnyNeck,
) -> tuple[Trunk, Pyramid]:
    """A backbone and the neck that fits its maps, of the families that the sections name."""
    trunk = BACKBONES[backbone.name](backbone)
    pyramid = NECKS[neck.name](trunk.out_channels, neck)
    if isinstance(trunk, TimmBackbone):
        trunk.train_for(pyramid.strides[0])
    return trunk, pyramid
