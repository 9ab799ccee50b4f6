"""RetinaNet (arXiv 1708.02002).

Letters: B images, C classes, A anchors per cell, D channels of a map; h, w cells of a level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from detcli.assign import build_assigner
from detcli.models.dense.auxiliary import Auxiliary
from detcli.models.dense.decode import Selection
from detcli.models.dense.detector import DenseDetector, Learning
from detcli.models.dense.estimates import Estimates, build_estimates, estimate_level
from detcli.models.dense.matching import positives_of_each_image
from detcli.models.dense.prior_grid import build_anchors
from detcli.models.dense.terms import build_criterion
from detcli.models.dense.tower import class_prediction, conv_tower, prediction
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import DeltaCoder, DistanceCoder

if TYPE_CHECKING:
    from detcli.recipe.sections.models.retinanet import RetinaNet
    from detcli.recipe.sections.network import Head


class RetinaNetHead(nn.Module):
    """Two towers, shared by all levels; each ends in one prediction per anchor, beside which there
    may be `estimates`. distances: a ReLU follows the box prediction."""

    def __init__(
        self,
        channels: int,
        options: Head,
        *,
        num_classes: int,
        num_anchors: int,
        estimates: Estimates,
        distances: bool,
    ) -> None:
        super().__init__()
        implicit, count = options.implicit, num_anchors
        self.num_classes = num_classes
        self.estimates = estimates
        self.distances = distances
        self.class_tower = conv_tower(options, channels, bias=False)
        self.box_tower = conv_tower(options, channels, bias=False)
        self.class_logits = class_prediction(channels, count * num_classes, implicit=implicit)
        self.box = prediction(channels, count * 4, implicit=implicit)
        self.iou, self.sigma, self.density = estimates.layers(channels, count, implicit=implicit)

    def forward(self, x: Tensor, level: int) -> tuple[Tensor | None, ...]:
        """Class logits (B, A * C, h, w), boxes (B, A * 4, h, w): deltas, or distances in strides,
        no centre-ness and `LevelEstimates` of a level (B, D, h, w), whichever it is."""
        box_features = self.box_tower(x)
        boxes, logits = self.box(box_features), self.class_logits(self.class_tower(x))
        return (
            logits,
            F.relu(boxes) if self.distances else boxes,
            None,
            *estimate_level(self, x, box_features, logits, boxes),
        )


def build_retinanet(options: RetinaNet, *, num_classes: int) -> DenseDetector:
    """RetinaNet from the model section of a recipe.

    All terms are divided by the sum over the images of max(1, positives). Anchors whose cell lies
    in the padding of their image take no part.
    """
    trunk, pyramid = build_pyramid(options.backbone, options.neck)
    anchors = build_anchors(pyramid.strides, options.anchors)
    distances = options.regression == "point"
    estimates = build_estimates(options, centerness=None)

    def build_head() -> RetinaNetHead:
        return RetinaNetHead(
            pyramid.out_channels,
            options.head,
            num_classes=num_classes,
            num_anchors=anchors.num_anchors,
            estimates=estimates,
            distances=distances,
        )

    return DenseDetector(
        trunk,
        pyramid,
        build_head(),
        priors=anchors,
        coder=DistanceCoder(stride_units=True) if distances else DeltaCoder(),
        learning=Learning(
            build_criterion(options, build_assigner(options.assigner)),
            padding="ignored",
            normaliser=positives_of_each_image,
        ),
        selection=Selection(options.score_threshold, options.topk_per_level),
        auxiliary=Auxiliary(build_head(), options.auxiliary) if options.auxiliary else None,
    )
