"""NAS-FCOS (arXiv 1906.04423): FCOS with the neck and the head that a search found.

Letters: B images, D channels of a map; h, w cells.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from detcli.layers.conv import ConvNorm, init_xavier
from detcli.layers.deform import deform_conv_norm
from detcli.models.dense.centerness_branch import CenternessBranch
from detcli.models.dense.detector import DenseDetector, build_dense
from detcli.models.dense.estimates import build_estimates
from detcli.models.dense.matching import positives_of_batch
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.dense.tower import with_noise
from detcli.models.fcos import MIN_CENTERNESS, FCOSHead
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import DistanceCoder

if TYPE_CHECKING:
    from detcli.recipe.sections.models.nas_fcos import NasFcos
    from detcli.recipe.sections.network import SearchedHead

POINT_OFFSET = 0.5  # of the points, in strides
OFFSET_GROUPS = 2


def searched_tower(options: SearchedHead, channels: int) -> nn.Sequential:
    """A deformable, a 3x3, a deformable and a 1x1 convolution, each with norm and ReLU (figure 5),
    (B, D, h, w) to the same shape."""
    deform = partial(
        deform_conv_norm, channels, norm=options.norm, bias=True, offset_groups=OFFSET_GROUPS
    )
    plain = partial(ConvNorm, channels, channels, norm=options.norm, bias=False)
    tower = nn.Sequential(deform(), plain(3), deform(), plain(1))
    for layer in tower:
        assert isinstance(layer, ConvNorm)
        init_xavier(layer.conv)
    return with_noise(tower, options.dropout)


def build_nas_fcos(options: NasFcos, *, num_classes: int) -> DenseDetector:
    """NAS-FCOS from the model section of a recipe: distances are exp(x) in pixels, centre-ness is
    on the class branch. Normalisers and padding are those of FCOS.

    anchor_scale: side, in strides, of the square box that assigners which need one look at.
    """
    parts = _, pyramid = build_pyramid(options.backbone, options.neck)
    centerness = CenternessBranch(options.centerness_weight, MIN_CENTERNESS)
    estimates = build_estimates(options, centerness=centerness)
    channels = pyramid.out_channels

    def build_head() -> FCOSHead:
        return FCOSHead(
            channels,
            [searched_tower(options.head, channels) for _ in ("class", "box")],
            num_classes=num_classes,
            num_levels=len(pyramid.strides),
            implicit=options.head.implicit,
            centerness_on="class",
            estimates=estimates,
            activation=torch.exp,
        )

    shapes = square_shapes(pyramid.strides, options.anchor_scale)
    return build_dense(
        options,
        parts,
        build_head,
        priors=PriorGrid(shapes, pyramid.strides, offset=POINT_OFFSET),
        coder=DistanceCoder(stride_units=False),
        padding="seen",
        normaliser=positives_of_batch,
    )
