"""ATSS (arXiv 1912.02424).

Letters: B images, C classes, P priors of one image, M positives of the batch; h, w cells of a
level. One square anchor per cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.losses import centerness_loss, centerness_target
from detcli.models.dense.auxiliary import Auxiliary
from detcli.models.dense.decode import Selection, class_probabilities, decode_batch
from detcli.models.dense.estimates import Estimates, build_estimates, estimate_level, stack_levels
from detcli.models.dense.loss import dense_loss
from detcli.models.dense.matching import Matches, positives_of_each_image
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.dense.terms import Criterion, box_quality, box_term, build_criterion, class_term
from detcli.models.dense.tower import Branches, flatten_levels
from detcli.models.detector import Detector
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import BoxCoder, DeltaCoder, DistanceCoder, side_distances
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target


class ATSSOutputs(NamedTuple):
    """Raw predictions, one entry per level.

    class_logits (B, C, h, w); boxes (B, 4, h, w): deltas, or with regression "point" distances in
    strides; centerness (B, 1, h, w): logits; iou, sigma and density: see `EstimateMaps`; auxiliary:
    the outputs of the auxiliary head, in training and where there is one; canvas: (height, width)
    of the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    centerness: tuple[Tensor, ...]
    iou: tuple[Tensor, ...]
    sigma: tuple[Tensor, ...]
    density: tuple[Tensor, ...]
    auxiliary: tuple[ATSSOutputs, ...]
    canvas: tuple[int, int]


class ATSSHead(nn.Module):
    """Two towers, shared by all levels; centre-ness is on the box tower, beside which there may be
    `estimates`.

    Each level multiplies its box prediction by a scale that it learns.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        num_levels: int,
        branches: Branches,
        estimates: Estimates,
        distances: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.distances = distances
        self.class_tower = branches.tower(channels, bias=False)
        self.box_tower = branches.tower(channels, bias=False)
        self.class_logits = branches.class_prediction(channels, num_classes)
        self.box = branches.prediction(channels, 4)
        self.centerness = branches.prediction(channels, 1)
        self.iou, self.sigma, self.density = estimates.layers(branches, channels, 1)
        self.level_scales = nn.Parameter(torch.ones(num_levels))

    def forward(self, x: Tensor, level: int) -> tuple[Tensor | None, ...]:
        """Class logits (B, C, h, w), boxes (B, 4, h, w), centre-ness (B, 1, h, w) and
        `LevelEstimates` of a level (B, D, h, w)."""
        box_features = self.box_tower(x)
        boxes = self.box(box_features).float() * self.level_scales[level]
        logits = self.class_logits(self.class_tower(x))
        return (
            logits,
            F.relu(boxes) if self.distances else boxes,
            self.centerness(box_features),
            *estimate_level(self, x, box_features, logits, boxes),
        )


class ATSS(Detector):
    """Class loss on every anchor; boxes and centre-ness on the positive ones.

    Class and centre-ness terms are divided by the sum over the images of max(1, positives); the
    box term is weighted by the centre-ness targets and divided by their sum (at least 1).
    Anchors whose cell lies in the padding of their image take no part. The terms of `estimates`
    are divided like the class term.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: ATSSHead,
        *,
        anchors: PriorGrid,
        coder: BoxCoder,
        criterion: Criterion,
        centerness_weight: float,
        selection: Selection,
        estimates: Estimates,
        auxiliary: Auxiliary | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.anchors = anchors
        self.coder = coder
        self.criterion = criterion
        self.centerness_weight = centerness_weight
        self.selection = selection
        self.estimates = estimates
        self.auxiliary = auxiliary

    def forward(self, images: Tensor, targets: object = None, sizes: object = None) -> ATSSOutputs:
        """Raw predictions for images (B, 3, H, W); targets and sizes are not used."""
        maps = self.neck(self.backbone(images))
        canvas = (images.shape[-2], images.shape[-1])
        outputs = _predict(self.head, maps, canvas)
        if self.auxiliary is None or not self.training:
            return outputs
        return outputs._replace(auxiliary=(_predict(self.auxiliary.head, maps, canvas),))

    def loss(self, outputs: ATSSOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "box", "centerness" and, with those branches, "iou" and "density", float32
        scalars with their weights; those of the auxiliary head begin with "aux_"."""
        priors = self.anchors(outputs.boxes, outputs.canvas)
        return dense_loss(
            self, outputs, outputs.auxiliary, targets, priors=priors, padding="ignored"
        )

    def head_loss(
        self,
        outputs: ATSSOutputs,
        priors: Priors,
        matches: Matches,
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """The terms of one head."""
        encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)[matches.positive]
        count = all_rank_mean(positives_of_each_image(matches))
        positive = priors.take(matches.prior_index())
        seen = self.criterion.seen_boxes(matches.boxes)
        wanted = centerness_target(side_distances(positive.centers, seen))
        alpha = self.estimates.alpha(outputs, matches)
        box = box_term(self.criterion, self.coder, encoded, matches, positive, wanted, alpha)
        centerness = flatten_levels(outputs.centerness, 1).flatten()[matches.positive]
        center = centerness_loss(centerness, wanted)
        classes = class_term(
            self.criterion,
            outputs.class_logits,
            matches.labels,
            self.head.num_classes,
            box_quality(self.criterion, self.coder, encoded, matches, positive),
            count,
        )
        losses = {
            "class": classes,
            "box": box / all_rank_mean(wanted.sum(), at_least=1),
            "centerness": self.centerness_weight * center / count,
        }
        more = self.estimates.losses(
            outputs, encoded, matches, targets, coder=self.coder, priors=positive
        )
        return losses | {term: total / count for term, total in more.items()}

    @torch.no_grad()
    def decode(
        self, outputs: ATSSOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are class probability x centre-ness.

        With an IoU branch, class probability^(1 - alpha) x predicted IoU^alpha takes the place of
        the class probability. What is estimated is in the columns `iou`, `sigma` and `density`.
        """
        priors = self.anchors(outputs.boxes, outputs.canvas)
        columns = self.estimates.columns(outputs, self.coder, priors)
        scores = class_probabilities(outputs.class_logits, self.head.num_classes)
        return decode_batch(
            self.estimates.rate(scores, columns),
            outputs.boxes,
            image_sizes,
            priors=priors,
            coder=self.coder,
            selection=self.selection,
            factors=[level.float().sigmoid().flatten(1) for level in outputs.centerness],
            columns=columns,
        )


def build_atss(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    neck: Mapping[str, Any],
    head: Mapping[str, Any],
    anchor_scale: float,
    assigner: Mapping[str, Any],
    regression: str,
    delta_stds: Sequence[float],
    class_loss: Mapping[str, Any],
    box_loss: Mapping[str, Any],
    centerness_weight: float,
    score_threshold: float,
    topk_per_level: int,
    iou_branch: Mapping[str, float] | None,
    density_branch: Mapping[str, float] | None,
    auxiliary: Mapping[str, Any] | None,
    enlarge_small: Mapping[str, float] | None,
) -> ATSS:
    """ATSS from the model section of a recipe."""
    trunk, pyramid = build_pyramid(backbone, neck)
    distances = regression == "point"
    estimates = build_estimates(iou_branch, density_branch, box_loss)
    build_head = partial(
        ATSSHead,
        pyramid.out_channels,
        num_classes=num_classes,
        num_levels=len(pyramid.strides),
        distances=distances,
        estimates=estimates,
        branches=Branches(**head),
    )
    return ATSS(
        trunk,
        pyramid,
        build_head(),
        anchors=PriorGrid(square_shapes(pyramid.strides, anchor_scale), pyramid.strides),
        coder=DistanceCoder(stride_units=True) if distances else DeltaCoder(delta_stds),
        criterion=build_criterion(
            assigner=assigner, enlarge_small=enlarge_small, class_loss=class_loss, box_loss=box_loss
        ),
        centerness_weight=centerness_weight,
        selection=Selection(score_threshold, topk_per_level),
        estimates=estimates,
        auxiliary=Auxiliary(build_head(), **auxiliary) if auxiliary else None,
    )


def _predict(head: nn.Module, maps: Sequence[Tensor], canvas: tuple[int, int]) -> ATSSOutputs:
    levels = [head(features, level) for level, features in enumerate(maps)]
    logits, boxes, centerness, iou, sigma, density = stack_levels(levels)
    return ATSSOutputs(logits, boxes, centerness, iou, sigma, density, (), canvas)
