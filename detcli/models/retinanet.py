"""RetinaNet (arXiv 1708.02002).

Letters: B images, C classes, A anchors per cell, P priors of one image, M positives of the batch;
h, w cells of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.models.heads.decode import Selection, decode_image
from detcli.models.heads.matching import match_batch, positives_of_each_image
from detcli.models.heads.prior_grid import PriorGrid
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
from detcli.ops.coders import BoxCoder, DeltaCoder, DistanceCoder
from detcli.ops.priors import anchor_shapes
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target


class RetinaNetOutputs(NamedTuple):
    """Raw predictions, one entry per level, channels anchor-major.

    class_logits (B, A * C, h, w); boxes (B, A * 4, h, w): deltas, or with regression "point"
    distances in strides; canvas: (height, width) of the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    canvas: tuple[int, int]


class RetinaNetHead(nn.Module):
    """Two towers, shared by all levels; each ends in one prediction per anchor."""

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        num_anchors: int,
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
        self.class_logits = build_class_prediction(channels, num_anchors * num_classes)
        self.box = build_prediction(channels, num_anchors * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, A * C, h, w) and boxes (B, A * 4, h, w) of one level (B, D, h, w)."""
        logits = self.class_logits(self.class_tower(x))
        boxes = self.box(self.box_tower(x))
        return logits, F.relu(boxes) if self.distances else boxes


class RetinaNet(nn.Module):
    """Class loss on every anchor, box regression on the positive ones.

    Both terms are divided by the sum over the images of max(1, positives). Anchors whose cell
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
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.anchors = anchors
        self.coder = coder
        self.criterion = criterion
        self.selection = selection

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> RetinaNetOutputs:
        """Raw predictions for images (B, 3, H, W); targets are not used."""
        levels = [self.head(level) for level in self.neck(self.backbone(images))]
        logits, boxes = zip(*levels, strict=True)
        return RetinaNetOutputs(logits, boxes, (images.shape[-2], images.shape[-1]))

    def loss(self, outputs: RetinaNetOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class" and "box", float32 scalars with their weights."""
        with torch.autocast(outputs.boxes[0].device.type, enabled=False):
            priors = self.anchors(outputs.boxes, outputs.canvas)
            encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)
            matches = match_batch(
                self.criterion.assigner,
                priors,
                targets,
                num_classes=self.head.num_classes,
                inside_only=True,
            )
            count = all_rank_mean(positives_of_each_image(matches))
            positive = priors.take(matches.prior_index())
            encoded = encoded[matches.positive].float()
            box = box_term(self.criterion, self.coder, encoded, matches, positive)
            classes = class_term(
                self.criterion,
                outputs.class_logits,
                matches.labels,
                self.head.num_classes,
                box_quality(self.criterion, self.coder, encoded, matches, positive),
            )
            return {
                "class": classes / count,
                "box": box / count,
            }

    @torch.no_grad()
    def decode(
        self, outputs: RetinaNetOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are the class probabilities."""
        priors = self.anchors(outputs.boxes, outputs.canvas).split()
        scores = [
            flatten_levels((level,), self.head.num_classes).float().sigmoid()
            for level in outputs.class_logits
        ]
        encoded = [flatten_levels((level,), 4).float() for level in outputs.boxes]
        return [
            decode_image(
                [level[image] for level in scores],
                [level[image] for level in encoded],
                None,
                priors=priors,
                coder=self.coder,
                selection=self.selection,
                size=size,
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
) -> RetinaNet:
    """RetinaNet from the model section of a recipe."""
    trunk, pyramid = build_pyramid(backbone, neck)
    grid = build_anchors(pyramid.strides, **anchors)
    distances = regression == "point"
    return RetinaNet(
        trunk,
        pyramid,
        RetinaNetHead(
            pyramid.out_channels,
            num_classes=num_classes,
            num_anchors=grid.num_anchors,
            distances=distances,
            **head,
        ),
        anchors=grid,
        coder=DistanceCoder(stride_units=True) if distances else DeltaCoder(),
        criterion=build_criterion(assigner=assigner, class_loss=class_loss, box_loss=box_loss),
        selection=Selection(score_threshold, topk_per_level),
    )


def build_anchors(
    strides: Sequence[int],
    *,
    base_scale: float,
    scales_per_octave: int,
    ratios: Sequence[float],
    sizes: Sequence[Sequence[float]] | None,
    round_corners: bool,
    fit_grid: bool,
) -> PriorGrid:
    """Anchors of every size and ratio in each cell, centred on the cell's corner.

    sizes: in pixels per level; None: base_scale x stride x 2^(i / scales_per_octave).
    round_corners: to whole pixels. fit_grid: see `PriorGrid`. Raises ValueError when `sizes` has
    another number of levels than the pyramid.
    """
    if sizes is None:
        octave = [2 ** (step / scales_per_octave) for step in range(scales_per_octave)]
        sizes = [[stride * base_scale * scale for scale in octave] for stride in strides]
    if len(sizes) != len(strides):
        raise ValueError(f"anchors.sizes: expected {len(strides)} levels, got {len(sizes)}")
    shapes = torch.stack([anchor_shapes(level, ratios) for level in sizes])
    return PriorGrid(shapes.round() if round_corners else shapes, strides, fit_grid=fit_grid)
