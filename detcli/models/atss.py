"""ATSS (arXiv 1912.02424): RetinaNet with one square anchor per cell, centre-ness, and an assigner
that sets its own thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcli.models.dense.centerness_branch import CenternessBranch
from detcli.models.dense.detector import DenseDetector, build_dense
from detcli.models.dense.estimates import build_estimates
from detcli.models.dense.matching import positives_of_each_image
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.pyramid import build_pyramid
from detcli.models.retinanet import RetinaNetHead
from detcli.ops.coders import DeltaCoder, DistanceCoder

if TYPE_CHECKING:
    from detcli.recipe.sections.models.atss import Atss


def build_atss(options: Atss, *, num_classes: int) -> DenseDetector:
    """ATSS from the model section of a recipe.

    All terms but that of the boxes are divided by the sum over the images of max(1, positives); the
    box term is weighted by the centre-ness targets and divided by their sum (at least 1). Anchors
    whose cell lies in the padding of their image take no part.
    """
    parts = _, pyramid = build_pyramid(options.backbone, options.neck)
    distances = options.regression == "point"
    centerness = CenternessBranch(options.centerness_weight, min_sum=1.0)
    estimates = build_estimates(options, centerness=centerness)

    def build_head() -> RetinaNetHead:
        return RetinaNetHead(
            pyramid.out_channels,
            options.head,
            num_classes=num_classes,
            num_anchors=1,
            estimates=estimates,
            distances=distances,
            num_scales=len(pyramid.strides),
        )

    return build_dense(
        options,
        parts,
        build_head,
        priors=PriorGrid(square_shapes(pyramid.strides, options.anchor_scale), pyramid.strides),
        coder=DistanceCoder(stride_units=True) if distances else DeltaCoder(options.delta_stds),
        padding="ignored",
        normaliser=positives_of_each_image,
    )
