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
from detcli.models.heads.auxiliary import Auxiliary
from detcli.models.heads.decode import Selection, decode_image
from detcli.models.heads.dense_loss import dense_loss
from detcli.models.heads.iou_branch import IoUBranch, iou_column, level_ious
from detcli.models.heads.matching import Matches
from detcli.models.heads.prior_grid import PriorGrid, square_shapes
from detcli.models.heads.terms import (
    Criterion,
    box_quality,
    box_term,
    build_criterion,
    class_term,
)
from detcli.models.heads.tower import Branches, flatten_levels
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import BoxCoder, DeltaCoder, DistanceCoder, side_distances
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target

MIN_CENTERNESS = 1e-6  # smallest sum of centre-ness targets that the box term is divided by


class FCOSOutputs(NamedTuple):
    """Raw predictions, one entry per level.

    class_logits (B, C, h, w); boxes (B, 4, h, w): distances in pixels, or in strides where the
    detector says so, or with regression "box" deltas; centerness (B, 1, h, w): logits;
    iou (B, 1, h, w): logits, empty without an IoU branch; auxiliary: the outputs of the auxiliary
    head, in training and where there is one; canvas: (height, width) of the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    centerness: tuple[Tensor, ...]
    iou: tuple[Tensor, ...]
    auxiliary: tuple[FCOSOutputs, ...]
    canvas: tuple[int, int]


class FCOSHead(nn.Module):
    """Two towers, shared by all levels; centre-ness is on one of them, with `iou` a predicted IoU
    on the box tower.

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
        iou: bool,
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
        self.iou = branches.prediction(channels, 1) if iou else None
        self.level_scales = nn.Parameter(torch.ones(num_levels))

    def forward(self, x: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Class logits (B, C, h, w), boxes (B, 4, h, w), centre-ness and predicted IoU
        (B, 1, h, w) of a level."""
        class_features, box_features = self.class_tower(x), self.box_tower(x)
        on_box = self.centerness_on == "box"
        boxes = self.box(box_features).float() * self.level_scales[level]
        return (
            self.class_logits(class_features),
            self.activation(boxes),
            self.centerness(box_features if on_box else class_features),
            None if self.iou is None else self.iou(box_features),
        )


class FCOS(nn.Module):
    """Class loss on every point; boxes and centre-ness on the positive ones.

    Class and centre-ness terms are divided by the positives of the whole batch (at least 1); the
    box term is weighted by the centre-ness targets and divided by their sum. Points in the
    padding count as background. The term of an IoU branch is divided like the class term.
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
        iou_branch: IoUBranch | None,
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
        self.iou_branch = iou_branch
        self.auxiliary = auxiliary

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> FCOSOutputs:
        """Raw predictions for images (B, 3, H, W); targets are not used."""
        maps = self.neck(self.backbone(images))
        canvas = (images.shape[-2], images.shape[-1])
        outputs = _predict(self.head, maps, canvas)
        if self.auxiliary is None or not self.training:
            return outputs
        return outputs._replace(auxiliary=(_predict(self.auxiliary.head, maps, canvas),))

    def loss(self, outputs: FCOSOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "box", "centerness" and, with that branch, "iou", float32 scalars
        with their weights; those of the auxiliary head begin with "aux_"."""
        priors = self.points(outputs.boxes, outputs.canvas)
        return dense_loss(self, outputs, outputs.auxiliary, targets, priors=priors, padding="seen")

    def head_loss(
        self, outputs: FCOSOutputs, priors: Priors, matches: Matches
    ) -> dict[str, Tensor]:
        """The terms of one head."""
        encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)[matches.positive]
        count = all_rank_mean(matches.positives_per_image.sum().float()).clamp(min=1)
        positive = priors.take(matches.prior_index())
        seen = self.criterion.seen_boxes(matches.boxes)
        wanted = centerness_target(side_distances(positive.centers, seen))
        box = box_term(self.criterion, self.coder, encoded, matches, positive, weights=wanted)
        centerness = flatten_levels(outputs.centerness, 1).flatten()[matches.positive]
        center = centerness_loss(centerness, wanted)
        classes = class_term(
            self.criterion,
            outputs.class_logits,
            matches.labels,
            self.head.num_classes,
            box_quality(self.criterion, self.coder, encoded, matches, positive),
        )
        losses = {
            "class": classes / count,
            "box": box / all_rank_mean(wanted.sum()).clamp(min=MIN_CENTERNESS),
            "centerness": self.centerness_weight * center / count,
        }
        if self.iou_branch is not None:
            iou = self.iou_branch.loss(outputs.iou, self.coder, encoded, matches, positive)
            losses["iou"] = iou / count
        return losses

    @torch.no_grad()
    def decode(
        self, outputs: FCOSOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image.

        score "product": selected by class probability, then multiplied by the centre-ness;
        "sqrt_product": selected by the square root of that product, as in torchvision. With an
        IoU branch, class probability^(1 - alpha) x predicted IoU^alpha takes the place of the
        class probability in both, and the candidates have the column `iou`.
        """
        points = self.points(outputs.boxes, outputs.canvas).split()
        scores = [
            flatten_levels((level,), self.head.num_classes).float().sigmoid()
            for level in outputs.class_logits
        ]
        encoded = [flatten_levels((level,), 4) for level in outputs.boxes]
        centerness = [level.float().sigmoid().flatten(1) for level in outputs.centerness]
        ious = level_ious(outputs.iou)
        if self.iou_branch is not None:
            scores = self.iou_branch.rate(scores, ious)
        multiply_later = self.score == "product"
        if not multiply_later:
            scores = [
                (level * factor[:, :, None]).sqrt()
                for level, factor in zip(scores, centerness, strict=True)
            ]
        return [
            decode_image(
                [level[image] for level in scores],
                [level[image] for level in encoded],
                [level[image] for level in centerness] if multiply_later else None,
                priors=points,
                coder=self.coder,
                selection=self.selection,
                size=size,
                columns=iou_column(ious, image),
            )
            for image, size in enumerate(image_sizes)
        ]


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
    build_head = partial(
        FCOSHead,
        pyramid.out_channels,
        num_classes=num_classes,
        num_levels=len(pyramid.strides),
        centerness_on=centerness_on,
        activation=activation,
        iou=iou_branch is not None,
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
        iou_branch=IoUBranch(**iou_branch) if iou_branch else None,
        auxiliary=Auxiliary(build_head(), **auxiliary) if auxiliary else None,
    )


def _predict(head: nn.Module, maps: Sequence[Tensor], canvas: tuple[int, int]) -> FCOSOutputs:
    levels = [head(features, level) for level, features in enumerate(maps)]
    logits, boxes, centerness, ious = zip(*levels, strict=True)
    iou = tuple(level for level in ious if level is not None)
    return FCOSOutputs(logits, boxes, centerness, iou, (), canvas)


def _identity(x: Tensor) -> Tensor:
    return x
