"""NAS-FCOS (arXiv 1906.04423): FCOS with the neck and the head that a search found.

Letters: B images, D channels of a map; h, w cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from detcli.layers.conv import ConvNorm
from detcli.layers.deform import deform_conv_norm
from detcli.layers.dropout import Dropout
from detcli.models.dense.auxiliary import Auxiliary
from detcli.models.dense.decode import Selection
from detcli.models.dense.estimates import build_estimates
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.dense.terms import build_criterion
from detcli.models.dense.tower import Branches
from detcli.models.fcos import FCOS, FCOSHead
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import DistanceCoder

POINT_OFFSET = 0.5  # of the points, in strides
OFFSET_GROUPS = 2


@dataclass(frozen=True)
class SearchedBranches(Branches):
    """Branches whose towers are a deformable, a 3x3, a deformable and a 1x1 convolution, each with
    norm and ReLU (figure 5); `num_convs` and `conv` say nothing here."""

    def tower(self, channels: int, *, bias: bool) -> nn.Sequential:
        """(B, D, h, w) to the same shape; bias: of the two plain convolutions."""
        deform = partial(
            deform_conv_norm, channels, norm=self.norm, bias=True, offset_groups=OFFSET_GROUPS
        )
        plain = partial(ConvNorm, channels, channels, norm=self.norm, bias=bias)
        tower = nn.Sequential(deform(), plain(3), deform(), plain(1))
        for layer in tower:
            assert isinstance(layer, ConvNorm)
            nn.init.xavier_uniform_(layer.conv.weight)
            if layer.conv.bias is not None:
                nn.init.zeros_(layer.conv.bias)
        if self.dropout is not None:
            tower.append(Dropout(**self.dropout))
        return tower


def build_nas_fcos(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    neck: Mapping[str, Any],
    head: Mapping[str, Any],
    assigner: Mapping[str, Any],
    anchor_scale: float,
    class_loss: Mapping[str, Any],
    box_loss: Mapping[str, Any],
    centerness_weight: float,
    score_threshold: float,
    topk_per_level: int,
    iou_branch: Mapping[str, float] | None,
    density_branch: Mapping[str, float] | None,
    auxiliary: Mapping[str, Any] | None,
    enlarge_small: Mapping[str, float] | None,
) -> FCOS:
    """NAS-FCOS from the model section of a recipe: distances are exp(x) in pixels, centre-ness is
    on the class branch.

    anchor_scale: side, in strides, of the square box that assigners which need one look at.
    """
    trunk, pyramid = build_pyramid(backbone, neck)
    estimates = build_estimates(iou_branch, density_branch, box_loss)
    build_head = partial(
        FCOSHead,
        pyramid.out_channels,
        num_classes=num_classes,
        num_levels=len(pyramid.strides),
        branches=SearchedBranches(num_convs=4, conv="plain", **head),
        conv_bias=False,
        centerness_on="class",
        estimates=estimates,
        activation=torch.exp,
    )
    shapes = square_shapes(pyramid.strides, anchor_scale)
    return FCOS(
        trunk,
        pyramid,
        build_head(),
        points=PriorGrid(shapes, pyramid.strides, offset=POINT_OFFSET),
        coder=DistanceCoder(stride_units=False),
        criterion=build_criterion(
            assigner=assigner, enlarge_small=enlarge_small, class_loss=class_loss, box_loss=box_loss
        ),
        centerness_weight=centerness_weight,
        selection=Selection(score_threshold, topk_per_level),
        score="product",
        estimates=estimates,
        auxiliary=Auxiliary(build_head(), **auxiliary) if auxiliary else None,
    )
