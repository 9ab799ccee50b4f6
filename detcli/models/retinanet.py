"""RetinaNet (arXiv 1708.02002).

Letters: B images, C classes, A anchors per cell, P priors of one image, M positives of the batch;
h, w cells of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.models.heads.auxiliary import Auxiliary
from detcli.models.heads.decode import Selection, decode_image
from detcli.models.heads.dense_loss import dense_loss
from detcli.models.heads.iou_branch import IoUBranch, iou_column, level_ious
from detcli.models.heads.matching import Matches, positives_of_each_image
from detcli.models.heads.prior_grid import PriorGrid, build_anchors
from detcli.models.heads.terms import (
    Criterion,
    box_quality,
    box_term,
    build_criterion,
    class_term,
)
from detcli.models.heads.tower import Branches, flatten_levels
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import BoxCoder, DeltaCoder, DistanceCoder
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target


class RetinaNetOutputs(NamedTuple):
    """Raw predictions, one entry per level, channels anchor-major.

    class_logits (B, A * C, h, w); boxes (B, A * 4, h, w): deltas, or with regression "point"
    distances in strides; iou (B, A, h, w): logits, empty without an IoU branch; auxiliary: the
    outputs of the auxiliary head, in training and where there is one; canvas: (height, width) of
    the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    iou: tuple[Tensor, ...]
    auxiliary: tuple[RetinaNetOutputs, ...]
    canvas: tuple[int, int]


class RetinaNetHead(nn.Module):
    """Two towers, shared by all levels; each ends in one prediction per anchor, the box tower,
    with `iou`, also in a predicted IoU."""

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        num_anchors: int,
        branches: Branches,
        iou: bool,
        distances: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.distances = distances
        self.class_tower = branches.tower(channels, bias=False)
        self.box_tower = branches.tower(channels, bias=False)
        self.class_logits = branches.class_prediction(channels, num_anchors * num_classes)
        self.box = branches.prediction(channels, num_anchors * 4)
        self.iou = branches.prediction(channels, num_anchors) if iou else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Class logits (B, A * C, h, w), boxes (B, A * 4, h, w) and predicted IoU (B, A, h, w) of
        one level (B, D, h, w)."""
        box_features = self.box_tower(x)
        boxes = self.box(box_features)
        return (
            self.class_logits(self.class_tower(x)),
            F.relu(boxes) if self.distances else boxes,
            None if self.iou is None else self.iou(box_features),
        )


class RetinaNet(nn.Module):
    """Class loss on every anchor, box regression on the positive ones.

    All terms are divided by the sum over the images of max(1, positives). Anchors whose cell
    lies in the padding of their image take no part.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: RetinaNetHead,
        *,
        anchors: PriorGrid,
        coder: BoxCoder,
        criterion: Criterion,
        selection: Selection,
        iou_branch: IoUBranch | None,
        auxiliary: Auxiliary | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.anchors = anchors
        self.coder = coder
        self.criterion = criterion
        self.selection = selection
        self.iou_branch = iou_branch
        self.auxiliary = auxiliary

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> RetinaNetOutputs:
        """Raw predictions for images (B, 3, H, W); targets are not used."""
        maps = self.neck(self.backbone(images))
        canvas = (images.shape[-2], images.shape[-1])
        outputs = _predict(self.head, maps, canvas)
        if self.auxiliary is None or not self.training:
            return outputs
        return outputs._replace(auxiliary=(_predict(self.auxiliary.head, maps, canvas),))

    def loss(self, outputs: RetinaNetOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "box" and, with that branch, "iou", float32 scalars
        with their weights; those of the auxiliary head begin with "aux_"."""
        priors = self.anchors(outputs.boxes, outputs.canvas)
        return dense_loss(
            self, outputs, outputs.auxiliary, targets, priors=priors, padding="ignored"
        )

    def head_loss(
        self, outputs: RetinaNetOutputs, priors: Priors, matches: Matches
    ) -> dict[str, Tensor]:
        """The terms of one head."""
        encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)[matches.positive].float()
        count = all_rank_mean(positives_of_each_image(matches))
        positive = priors.take(matches.prior_index())
        box = box_term(self.criterion, self.coder, encoded, matches, positive)
        classes = class_term(
            self.criterion,
            outputs.class_logits,
            matches.labels,
            self.head.num_classes,
            box_quality(self.criterion, self.coder, encoded, matches, positive),
        )
        losses = {"class": classes / count, "box": box / count}
        if self.iou_branch is not None:
            iou = self.iou_branch.loss(outputs.iou, self.coder, encoded, matches, positive)
            losses["iou"] = iou / count
        return losses

    @torch.no_grad()
    def decode(
        self, outputs: RetinaNetOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are the class probabilities.

        With an IoU branch, scores are class probability^(1 - alpha) x predicted IoU^alpha, and
        the candidates have the column `iou`.
        """
        priors = self.anchors(outputs.boxes, outputs.canvas).split()
        scores = [
            flatten_levels((level,), self.head.num_classes).float().sigmoid()
            for level in outputs.class_logits
        ]
        encoded = [flatten_levels((level,), 4).float() for level in outputs.boxes]
        ious = level_ious(outputs.iou)
        if self.iou_branch is not None:
            scores = self.iou_branch.rate(scores, ious)
        return [
            decode_image(
                [level[image] for level in scores],
                [level[image] for level in encoded],
                None,
                priors=priors,
                coder=self.coder,
                selection=self.selection,
                size=size,
                columns=iou_column(ious, image),
            )
            for image, size in enumerate(image_sizes)
        ]


def build_retinanet(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    neck: Mapping[str, Any],
    head: Mapping[str, Any],
    anchors: Mapping[str, Any],
    assigner: Mapping[str, Any],
    regression: str,
    class_loss: Mapping[str, Any],
    box_loss: Mapping[str, Any],
    score_threshold: float,
    topk_per_level: int,
    iou_branch: Mapping[str, float] | None,
    auxiliary: Mapping[str, Any] | None,
    enlarge_small: Mapping[str, float] | None,
) -> RetinaNet:
    """RetinaNet from the model section of a recipe."""
    trunk, pyramid = build_pyramid(backbone, neck)
    grid = build_anchors(pyramid.strides, **anchors)
    distances = regression == "point"
    build_head = partial(
        RetinaNetHead,
        pyramid.out_channels,
        num_classes=num_classes,
        num_anchors=grid.num_anchors,
        distances=distances,
        iou=iou_branch is not None,
        branches=Branches(**head),
    )
    return RetinaNet(
        trunk,
        pyramid,
        build_head(),
        anchors=grid,
        coder=DistanceCoder(stride_units=True) if distances else DeltaCoder(),
        criterion=build_criterion(
            assigner=assigner, enlarge_small=enlarge_small, class_loss=class_loss, box_loss=box_loss
        ),
        selection=Selection(score_threshold, topk_per_level),
        iou_branch=IoUBranch(**iou_branch) if iou_branch else None,
        auxiliary=Auxiliary(build_head(), **auxiliary) if auxiliary else None,
    )


def _predict(head: nn.Module, maps: Sequence[Tensor], canvas: tuple[int, int]) -> RetinaNetOutputs:
    logits, boxes, ious = zip(*[head(features) for features in maps], strict=True)
    iou = tuple(level for level in ious if level is not None)
    return RetinaNetOutputs(logits, boxes, iou, (), canvas)
