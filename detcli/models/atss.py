"""ATSS (arXiv 1912.02424).

Letters: B images, C classes, P priors of one image, M positives of the batch; h, w cells of a
level. One square anchor per cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.losses import centerness_loss, centerness_target
from detcli.models.heads.decode import Selection, decode_image
from detcli.models.heads.matching import match_batch, positives_of_each_image
from detcli.models.heads.prior_grid import PriorGrid, square_shapes
from detcli.models.heads.terms import (
    Criterion,
    box_quality,
    box_term,
    build_criterion,
    class_term,
)
from detcli.models.heads.tower import (
    build_class_prediction,
    build_prediction,
    build_tower,
    flatten_levels,
)
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import BoxCoder, DeltaCoder, DistanceCoder, side_distances
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target


class ATSSOutputs(NamedTuple):
    """Raw predictions, one entry per level.

    class_logits (B, C, h, w); boxes (B, 4, h, w): deltas, or with regression "point" distances in
    strides; centerness (B, 1, h, w): logits; canvas: (height, width) of the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    centerness: tuple[Tensor, ...]
    canvas: tuple[int, int]


class ATSSHead(nn.Module):
    """Two towers, shared by all levels; centre-ness is on the box tower.

    Each level multiplies its box prediction by a scale that it learns.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        num_levels: int,
        num_convs: int,
        norm: str,
        distances: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.distances = distances
        bias = norm == "none"
        self.class_tower = build_tower(channels, num_convs=num_convs, norm=norm, bias=bias)
        self.box_tower = build_tower(channels, num_convs=num_convs, norm=norm, bias=bias)
        self.class_logits = build_class_prediction(channels, num_classes)
        self.box = build_prediction(channels, 4)
        self.centerness = build_prediction(channels, 1)
        self.level_scales = nn.Parameter(torch.ones(num_levels))

    def forward(self, x: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, C, h, w), boxes (B, 4, h, w) and centre-ness (B, 1, h, w) of a level."""
        box_features = self.box_tower(x)
        boxes = self.box(box_features).float() * self.level_scales[level]
        return (
            self.class_logits(self.class_tower(x)),
            F.relu(boxes) if self.distances else boxes,
            self.centerness(box_features),
        )


class ATSS(nn.Module):
    """Class loss on every anchor; boxes and centre-ness on the positive ones.

    Class and centre-ness terms are divided by the sum over the images of max(1, positives); the
    box term is weighted by the centre-ness targets and divided by their sum (at least 1).
    Anchors whose cell lies in the padding of their image take no part.
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

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> ATSSOutputs:
        """Raw predictions for images (B, 3, H, W); targets are not used."""
        maps = self.neck(self.backbone(images))
        levels = [self.head(features, level) for level, features in enumerate(maps)]
        logits, boxes, centerness = zip(*levels, strict=True)
        return ATSSOutputs(logits, boxes, centerness, (images.shape[-2], images.shape[-1]))

    def loss(self, outputs: ATSSOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "box" and "centerness", float32 scalars with their weights."""
        with torch.autocast(outputs.boxes[0].device.type, enabled=False):
            priors = self.anchors(outputs.boxes, outputs.canvas)
            encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)
            centerness = flatten_levels(outputs.centerness, 1).flatten()
            matches = match_batch(
                self.criterion.assigner,
                priors,
                targets,
                num_classes=self.head.num_classes,
                inside_only=True,
            )
            count = all_rank_mean(positives_of_each_image(matches))
            positive = priors.take(matches.prior_index())
            wanted = centerness_target(side_distances(positive.centers, matches.boxes))
            encoded = encoded[matches.positive]
            box = box_term(self.criterion, self.coder, encoded, matches, positive, weights=wanted)
            center = centerness_loss(centerness[matches.positive], wanted)
            classes = class_term(
                self.criterion,
                outputs.class_logits,
                matches.labels,
                self.head.num_classes,
                box_quality(self.criterion, self.coder, encoded, matches, positive),
            )
            return {
                "class": classes / count,
                "box": box / all_rank_mean(wanted.sum()).clamp(min=1),
                "centerness": self.centerness_weight * center / count,
            }

    @torch.no_grad()
    def decode(
        self, outputs: ATSSOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are class probability x centre-ness."""
        priors = self.anchors(outputs.boxes, outputs.canvas).split()
        scores = [
            flatten_levels((level,), self.head.num_classes).float().sigmoid()
            for level in outputs.class_logits
        ]
        encoded = [flatten_levels((level,), 4) for level in outputs.boxes]
        centerness = [level.float().sigmoid().flatten(1) for level in outputs.centerness]
        return [
            decode_image(
                [level[image] for level in scores],
                [level[image] for level in encoded],
                [level[image] for level in centerness],
                priors=priors,
                coder=self.coder,
                selection=self.selection,
                size=size,
            )
            for image, size in enumerate(image_sizes)
        ]


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
) -> ATSS:
    """ATSS from the model section of a recipe."""
    trunk, pyramid = build_pyramid(backbone, neck)
    distances = regression == "point"
    return ATSS(
        trunk,
        pyramid,
        ATSSHead(
            pyramid.out_channels,
            num_classes=num_classes,
            num_levels=len(pyramid.strides),
            distances=distances,
            **head,
        ),
        anchors=PriorGrid(square_shapes(pyramid.strides, anchor_scale), pyramid.strides),
        coder=DistanceCoder(stride_units=True) if distances else DeltaCoder(delta_stds),
        criterion=build_criterion(assigner=assigner, class_loss=class_loss, box_loss=box_loss),
        centerness_weight=centerness_weight,
        selection=Selection(score_threshold, topk_per_level),
    )
