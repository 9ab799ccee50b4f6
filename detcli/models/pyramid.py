"""Backbone and neck from their sections of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detcli.models.backbones.resnet import ResNet, build_resnet
from detcli.models.necks.fpn import FPN

BACKBONES = {"resnet": build_resnet}
NECKS = {"fpn": FPN}


def build_pyramid(backbone: Mapping[str, Any], neck: Mapping[str, Any]) -> tuple[ResNet, FPN]:
    """A backbone and the neck that fits its maps; the keywords are those of `build_resnet` and
    `FPN`, with the name of the family as `name`."""
    backbone_keywords, neck_keywords = dict(backbone), dict(neck)
    trunk = BACKBONES[backbone_keywords.pop("name")](**backbone_keywords)
    return trunk, NECKS[neck_keywords.pop("name")](trunk.out_channels, **neck_keywords)
