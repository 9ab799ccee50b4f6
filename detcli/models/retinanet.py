"""RetinaNet (arXiv 1708.02002).

Letters: B images, C classes, A anchors per cell, D channels of a map; h, w cells of a level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.models.dense.detector import DenseDetector, build_dense
from detcli.models.dense.estimates import Estimates, build_estimates, estimate_level
from detcli.models.dense.matching import positives_of_each_image
from detcli.models.dense.prior_grid import build_anchors
from detcli.models.dense.tower import class_prediction, conv_tower, prediction
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import DeltaCoder, DistanceCoder

if TYPE_CHECKING:
    from detcli.recipe.sections.models.retinanet import RetinaNet
    from detcli.recipe.sections.network import Head


class RetinaNetHead(nn.Module):
    """Two towers, shared by all levels; each ends in one prediction per anchor, beside which there
    may be `estimates`, all from the box tower.

    distances: a ReLU follows the box prediction; num_scales: each of so many levels multiplies it
    by a scale that it learns before that (ATSS), 0: none does.
    """

    def __init__(
        self,
        channels: int,
        options: Head,
        *,
        num_classes: int,
        num_anchors: int,
        estimates: Estimates,
        distances: bool,
        num_scales: int = 0,
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
        self.centerness: nn.Module | None = None
        if estimates.centerness is not None:
            self.centerness = prediction(channels, count, implicit=implicit)
        self.iou, self.sigma, self.density = estimates.layers(channels, count, implicit=implicit)
        self.level_scales = nn.Parameter(torch.ones(num_scales)) if num_scales else None

    def forward(self, x: Tensor, level: int) -> tuple[Tensor | None, ...]:
        """Class logits (B, A * C, h, w), boxes (B, A * 4, h, w): deltas, or distances in strides,
        centre-ness (B, A, h, w) or None, and `estimate_level` of a level (B, D, h, w)."""
        box_features = self.box_tower(x)
        boxes = self.box(box_features)
        if self.level_scales is not None:
            boxes = boxes.float() * self.level_scales[level]
        logits = self.class_logits(self.class_tower(x))
        return (
            logits,
            F.relu(boxes) if self.distances else boxes,
            None if self.centerness is None else self.centerness(box_features),
            *estimate_level(self, x, box_features, logits, boxes),
        )


def build_retinanet(options: RetinaNet, *, num_classes: int) -> DenseDetector:
    """RetinaNet from the model section of a recipe.

    All terms are divided by the sum over the images of max(1, positives). Anchors whose cell lies
    in the padding of their image take no part.
    """
    parts = _, pyramid = build_pyramid(options.backbone, options.neck)
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

    return build_dense(
        options,
        parts,
        build_head,
        priors=anchors,
        coder=DistanceCoder(stride_units=True) if distances else DeltaCoder(),
        padding="ignored",
        normaliser=positives_of_each_image,
    )
