"""FCOS (arXiv 1904.01355; centre sampling and centre-ness on the box branch: 2006.09214).

Letters: B images, C classes, P points of one image, M positives of the batch; h, w cells of a
level. One point per cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from detcli.models.dense.matching import Matches
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.dense.terms import Criterion, box_quality, box_term, build_criterion, class_term
from detcli.models.dense.tower import Branches, flatten_levels
from detcli.models.detector import Detector
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import BoxCoder, DeltaCoder, DistanceCoder, side_distances
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target

MIN_CENTERNESS = 1e-6  # smallest sum of centre-ness targets that the box term is divided by


class FCOSOutputs(NamedTuple):
    """Raw predictions, one entry per level.

    class_logits (B, C, h, w); boxes (B, 4, h, w): distances in pixels, or in strides where the
    detector says so, or with regression "box" deltas; centerness (B, 1, h, w): logits; iou, sigma
    and density: see `EstimateMaps`; auxiliary: the outputs of the auxiliary head, in training and
    where there is one; canvas: (height, width) of the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    centerness: tuple[Tensor, ...]
    iou: tuple[Tensor, ...]
    sigma: tuple[Tensor, ...]
    density: tuple[Tensor, ...]
    auxiliary: tuple[FCOSOutputs, ...]
    canvas: tuple[int, int]


class FCOSHead(nn.Module):
    """Two towers, shared by all levels; centre-ness is on one of them, beside which there may be
    `estimates`.

    Each level multiplies its box prediction by a scale that it learns; `activation` then makes
    distances of it.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        num_levels: int,
        branches: Branches,
        conv_bias: bool,
        centerness_on: str,
        estimates: Estimates,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.centerness_on = centerness_on
        self.activation = activation
        self.class_tower = branches.tower(channels, bias=conv_bias)
        self.box_tower = branches.tower(channels, bias=conv_bias)
        self.class_logits = branches.class_prediction(channels, num_classes)
        self.box = branches.prediction(channels, 4)
        self.centerness = branches.prediction(channels, 1)
        self.iou, self.sigma, self.density = estimates.layers(branches, channels, 1)
        self.level_scales = nn.Parameter(torch.ones(num_levels))

    def forward(self, x: Tensor, level: int) -> tuple[Tensor | None, ...]:
        """Class logits (B, C, h, w), boxes (B, 4, h, w), centre-ness (B, 1, h, w) and
        `LevelEstimates` of a level (B, D, h, w)."""
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


class FCOS(Detector):
    """Class loss on every point; boxes and centre-ness on the positive ones.

    Class and centre-ness terms are divided by the positives of the whole batch (at least 1); the
    box term is weighted by the centre-ness targets and divided by their sum. Points in the
    padding count as background. The terms of `estimates` are divided like the class term.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: FCOSHead,
        *,
        points: PriorGrid,
        coder: BoxCoder,
        criterion: Criterion,
        centerness_weight: float,
        selection: Selection,
        score: str,
        estimates: Estimates,
        auxiliary: Auxiliary | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.points = points
        self.coder = coder
        self.criterion = criterion
        self.centerness_weight = centerness_weight
        self.selection = selection
        self.score = score
        self.estimates = estimates
        self.auxiliary = auxiliary

    def forward(self, images: Tensor, targets: object = None, sizes: object = None) -> FCOSOutputs:
        """Raw predictions for images (B, 3, H, W); targets and sizes are not used."""
        maps = self.neck(self.backbone(images))
        canvas = (images.shape[-2], images.shape[-1])
        outputs = _predict(self.head, maps, canvas)
        if self.auxiliary is None or not self.training:
            return outputs
        return outputs._replace(auxiliary=(_predict(self.auxiliary.head, maps, canvas),))

    def loss(self, outputs: FCOSOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "box", "centerness" and, with those branches, "iou" and "density", float32
        scalars with their weights; those of the auxiliary head begin with "aux_"."""
        priors = self.points(outputs.boxes, outputs.canvas)
        return dense_loss(self, outputs, outputs.auxiliary, targets, priors=priors, padding="seen")

    def head_loss(
        self,
        outputs: FCOSOutputs,
        priors: Priors,
        matches: Matches,
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """The terms of one head."""
        encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)[matches.positive]
        count = all_rank_mean(matches.positives_per_image.sum().float(), at_least=1)
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
            "box": box / all_rank_mean(wanted.sum(), at_least=MIN_CENTERNESS),
            "centerness": self.centerness_weight * center / count,
        }
        more = self.estimates.losses(
            outputs, encoded, matches, targets, coder=self.coder, priors=positive
        )
        return losses | {term: total / count for term, total in more.items()}

    @torch.no_grad()
    def decode(
        self, outputs: FCOSOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image.

        score "product": selected by class probability, then multiplied by the centre-ness;
        "sqrt_product": selected by the square root of that product, as in torchvision. With an
        IoU branch, class probability^(1 - alpha) x predicted IoU^alpha takes the place of the
        class probability in both. What is estimated is in the columns `iou`, `sigma` and `density`.
        """
        points = self.points(outputs.boxes, outputs.canvas)
        columns = self.estimates.columns(outputs, self.coder, points)
        scores = self.estimates.rate(
            class_probabilities(outputs.class_logits, self.head.num_classes), columns
        )
        centerness = [level.float().sigmoid().flatten(1) for level in outputs.centerness]
        multiply_later = self.score == "product"
        if not multiply_later:
            scores = [
                (level * factor[:, :, None]).sqrt()
                for level, factor in zip(scores, centerness, strict=True)
            ]
        return decode_batch(
            scores,
            outputs.boxes,
            image_sizes,
            priors=points,
            coder=self.coder,
            selection=self.selection,
            factors=centerness if multiply_later else None,
            columns=columns,
        )


def build_fcos(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    neck: Mapping[str, Any],
    head: Mapping[str, Any],
    assigner: Mapping[str, Any],
    regression: str,
    anchor_scale: float,
    delta_stds: Sequence[float],
    class_loss: Mapping[str, Any],
    box_loss: Mapping[str, Any],
    centerness_weight: float,
    centerness_on: str,
    stride_units: bool,
    point_offset: float,
    fit_grid: bool,
    score: str,
    score_threshold: float,
    topk_per_level: int,
    iou_branch: Mapping[str, float] | None,
    density_branch: Mapping[str, float] | None,
    auxiliary: Mapping[str, Any] | None,
    enlarge_small: Mapping[str, float] | None,
) -> FCOS:
    """FCOS from the model section of a recipe.

    regression "point": distances are exp(x) in pixels, or with stride_units ReLU(x) in strides;
    "box": deltas from a square anchor of anchor_scale strides, which is also what assigners that
    need a box look at.
    """
    trunk, pyramid = build_pyramid(backbone, neck)
    coder: BoxCoder
    activation: Callable[[Tensor], Tensor]
    if regression == "point":
        coder = DistanceCoder(stride_units=stride_units)
        activation = F.relu if stride_units else torch.exp
    else:
        coder, activation = DeltaCoder(delta_stds), _identity
    branches = dict(head)
    conv_bias = branches.pop("conv_bias")
    estimates = build_estimates(iou_branch, density_branch, box_loss)
    build_head = partial(
        FCOSHead,
        pyramid.out_channels,
        num_classes=num_classes,
        num_levels=len(pyramid.strides),
        centerness_on=centerness_on,
        activation=activation,
        estimates=estimates,
        branches=Branches(**branches),
        conv_bias=conv_bias,
    )
    return FCOS(
        trunk,
        pyramid,
        build_head(),
        points=PriorGrid(
            square_shapes(pyramid.strides, anchor_scale),
            pyramid.strides,
            offset=point_offset,
            fit_grid=fit_grid,
        ),
        coder=coder,
        criterion=build_criterion(
            assigner=assigner, enlarge_small=enlarge_small, class_loss=class_loss, box_loss=box_loss
        ),
        centerness_weight=centerness_weight,
        selection=Selection(score_threshold, topk_per_level),
        score=score,
        estimates=estimates,
        auxiliary=Auxiliary(build_head(), **auxiliary) if auxiliary else None,
    )


def _predict(head: nn.Module, maps: Sequence[Tensor], canvas: tuple[int, int]) -> FCOSOutputs:
    levels = [head(features, level) for level, features in enumerate(maps)]
    logits, boxes, centerness, iou, sigma, density = stack_levels(levels)
    return FCOSOutputs(logits, boxes, centerness, iou, sigma, density, (), canvas)


def _identity(x: Tensor) -> Tensor:
    return x
