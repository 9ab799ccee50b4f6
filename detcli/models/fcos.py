"""FCOS (arXiv 1904.01355; centre sampling and centre-ness on the box branch: 2006.09214).

Letters: B images, C classes, D channels of a map; h, w cells of a level. One point per cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.models.dense.centerness_branch import CenternessBranch
from detcli.models.dense.detector import DenseDetector, build_dense
from detcli.models.dense.estimates import Estimates, build_estimates, estimate_level
from detcli.models.dense.matching import positives_of_batch
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.dense.tower import class_prediction, conv_tower, prediction
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import BoxCoder, DeltaCoder, DistanceCoder

if TYPE_CHECKING:
    from detcli.recipe.sections.models.fcos import Fcos

MIN_CENTERNESS = 1e-6  # smallest sum of centre-ness targets that the box term is divided by


class FCOSHead(nn.Module):
    """A class and a box tower, shared by all levels; centre-ness is on one of them, beside which
    there may be other `estimates`.

    Each level multiplies its box prediction by a scale that it learns; `activation` then makes
    distances of it. implicit: see `prediction`.
    """

    def __init__(
        self,
        channels: int,
        towers: Sequence[nn.Sequential],
        *,
        num_classes: int,
        num_levels: int,
        implicit: bool,
        centerness_on: str,
        estimates: Estimates,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.centerness_on = centerness_on
        self.estimates = estimates
        self.activation = activation
        self.class_tower, self.box_tower = towers
        self.class_logits = class_prediction(channels, num_classes, implicit=implicit)
        self.box = prediction(channels, 4, implicit=implicit)
        self.centerness = prediction(channels, 1, implicit=implicit)
        self.iou, self.sigma, self.density = estimates.layers(channels, 1, implicit=implicit)
        self.level_scales = nn.Parameter(torch.ones(num_levels))

    def forward(self, x: Tensor, level: int) -> tuple[Tensor | None, ...]:
        """Class logits (B, C, h, w), boxes (B, 4, h, w): distances in pixels or strides, or deltas,
        centre-ness (B, 1, h, w) and `estimate_level` of a level (B, D, h, w)."""
        class_features, box_features = self.class_tower(x), self.box_tower(x)
        on_box = self.centerness_on == "box"
        boxes = self.box(box_features).float() * self.level_scales[level]
        logits = self.class_logits(class_features)
        return (
            logits,
            self.activation(boxes),
            self.centerness(box_features if on_box else class_features),
            *estimate_level(self, x, box_features, logits, boxes),
        )


def build_fcos(options: Fcos, *, num_classes: int) -> DenseDetector:
    """FCOS from the model section of a recipe.

    All terms but that of the boxes are divided by the positives of the whole batch (at least 1);
    the box term is weighted by the centre-ness targets and divided by their sum. Points in the
    padding count as background.
    """
    parts = _, pyramid = build_pyramid(options.backbone, options.neck)
    coder, activation = _regression(options)
    centerness = CenternessBranch(options.centerness_weight, MIN_CENTERNESS, options.score)
    estimates = build_estimates(options, centerness=centerness)
    channels, bias = pyramid.out_channels, options.head.conv_bias

    def build_head() -> FCOSHead:
        return FCOSHead(
            channels,
            [conv_tower(options.head, channels, bias=bias) for _ in ("class", "box")],
            num_classes=num_classes,
            num_levels=len(pyramid.strides),
            implicit=options.head.implicit,
            centerness_on=options.centerness_on,
            estimates=estimates,
            activation=activation,
        )

    return build_dense(
        options,
        parts,
        build_head,
        priors=PriorGrid(
            square_shapes(pyramid.strides, options.anchor_scale),
            pyramid.strides,
            offset=options.point_offset,
            fit_grid=options.fit_grid,
        ),
        coder=coder,
        padding="seen",
        normaliser=positives_of_batch,
    )


def _regression(options: Fcos) -> tuple[BoxCoder, Callable[[Tensor], Tensor]]:
    """The code of boxes, and what makes it of predictions.

    regression "point": distances are exp(x) in pixels, or with stride_units ReLU(x) in strides;
    "box": deltas from a square of anchor_scale strides, which is also what assigners that need a
    box look at.
    """
    if options.regression == "box":
        return DeltaCoder(options.delta_stds), _identity
    activation = F.relu if options.stride_units else torch.exp
    return DistanceCoder(stride_units=options.stride_units), activation


def _identity(x: Tensor) -> Tensor:
    return x
