"""ATSS (arXiv 1912.02424).

Letters: B images, C classes, D channels of a map; h, w cells of a level. One square anchor per
cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.assign import build_assigner
from detcli.models.dense.auxiliary import Auxiliary
from detcli.models.dense.centerness_branch import CenternessBranch
from detcli.models.dense.decode import Selection
from detcli.models.dense.detector import DenseDetector, Learning
from detcli.models.dense.estimates import Estimates, build_estimates, estimate_level
from detcli.models.dense.matching import positives_of_each_image
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.dense.terms import build_criterion
from detcli.models.dense.tower import class_prediction, conv_tower, prediction
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import DeltaCoder, DistanceCoder

if TYPE_CHECKING:
    from detcli.recipe.sections.models.atss import Atss
    from detcli.recipe.sections.network import Head


class ATSSHead(nn.Module):
    """Two towers, shared by all levels; centre-ness is on the box tower, beside which there may be
    other `estimates`.

    Each level multiplies its box prediction by a scale that it learns; distances: a ReLU follows.
    """

    def __init__(
        self,
        channels: int,
        options: Head,
        *,
        num_classes: int,
        num_levels: int,
        estimates: Estimates,
        distances: bool,
    ) -> None:
        super().__init__()
        implicit = options.implicit
        self.num_classes = num_classes
        self.estimates = estimates
        self.distances = distances
        self.class_tower = conv_tower(options, channels, bias=False)
        self.box_tower = conv_tower(options, channels, bias=False)
        self.class_logits = class_prediction(channels, num_classes, implicit=implicit)
        self.box = prediction(channels, 4, implicit=implicit)
        self.centerness = prediction(channels, 1, implicit=implicit)
        self.iou, self.sigma, self.density = estimates.layers(channels, 1, implicit=implicit)
        self.level_scales = nn.Parameter(torch.ones(num_levels))

    def forward(self, x: Tensor, level: int) -> tuple[Tensor | None, ...]:
        """Class logits (B, C, h, w), boxes (B, 4, h, w): deltas, or distances in strides,
        centre-ness (B, 1, h, w) and `LevelEstimates` of a level (B, D, h, w)."""
        box_features = self.box_tower(x)
        boxes = self.box(box_features).float() * self.level_scales[level]
        logits = self.class_logits(self.class_tower(x))
        return (
            logits,
            F.relu(boxes) if self.distances else boxes,
            self.centerness(box_features),
            *estimate_level(self, x, box_features, logits, boxes),
        )


def build_atss(options: Atss, *, num_classes: int) -> DenseDetector:
    """ATSS from the model section of a recipe.

    All terms but that of the boxes are divided by the sum over the images of max(1, positives); the
    box term is weighted by the centre-ness targets and divided by their sum (at least 1). Anchors
    whose cell lies in the padding of their image take no part.
    """
    trunk, pyramid = build_pyramid(options.backbone, options.neck)
    distances = options.regression == "point"
    centerness = CenternessBranch(options.centerness_weight, min_sum=1.0)
    estimates = build_estimates(options, centerness=centerness)

    def build_head() -> ATSSHead:
        return ATSSHead(
            pyramid.out_channels,
            options.head,
            num_classes=num_classes,
            num_levels=len(pyramid.strides),
            estimates=estimates,
            distances=distances,
        )

    return DenseDetector(
        trunk,
        pyramid,
        build_head(),
        priors=PriorGrid(square_shapes(pyramid.strides, options.anchor_scale), pyramid.strides),
        coder=DistanceCoder(stride_units=True) if distances else DeltaCoder(options.delta_stds),
        learning=Learning(
            build_criterion(options, build_assigner(options.assigner)),
            padding="ignored",
            normaliser=positives_of_each_image,
        ),
        selection=Selection(options.score_threshold, options.topk_per_level),
        auxiliary=Auxiliary(build_head(), options.auxiliary) if options.auxiliary else None,
    )
