"""VarifocalNet (arXiv 2008.13367).

Letters: B images, C classes, P points of one image, M positives of the batch; h, w cells of a
level. One point per cell, at its corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.assign import build_assigner
from detcli.layers.conv import ConvNorm
from detcli.layers.deform import OffsetConv2d, deform_conv_norm
from detcli.models.dense.decode import Selection, class_probabilities, decode_batch
from detcli.models.dense.matching import Matches, match_batch, of_every_row, positives_of_batch
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.dense.terms import (
    Criterion,
    box_term,
    build_criterion,
    class_term,
    predicted_iou,
)
from detcli.models.dense.tower import class_prediction, conv_tower, flatten_levels, prediction
from detcli.models.detector import Detector
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import DistanceCoder
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.vfnet import Vfnet, VfnetHead

UNIT = 8.0  # strides that the first distances are counted in: 64 to 1024 pixels on P3 to P7
OFFSET_SLOPE = 0.1  # share of the star's gradient that reaches the first distances
MIN_IOU = 1e-6  # target of a positive whose box misses its object: 0 would make it background


class VFNetOutputs(NamedTuple):
    """Raw predictions, one entry per level.

    class_logits (B, C, h, w); boxes and first_boxes (B, 4, h, w): distances in pixels, refined and
    before that; canvas: (height, width) of the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    first_boxes: tuple[Tensor, ...]
    canvas: tuple[int, int]


class VFNetHead(nn.Module):
    """Two towers, shared by all levels; a first box is predicted, and both branches then look at
    nine points of it.

    options: deform_last, the last convolution of each tower is deformable (DCNv2).
    """

    def __init__(
        self, channels: int, options: VfnetHead, *, num_classes: int, strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = tuple(strides)
        norm, implicit = options.norm, options.implicit
        self.class_tower = conv_tower(options, channels, bias=False)
        self.box_tower = conv_tower(options, channels, bias=False)
        if options.deform_last:
            for tower in (self.class_tower, self.box_tower):
                tower[options.num_convs - 1] = deform_conv_norm(channels, norm=norm)
        self.first_conv = ConvNorm(channels, channels, 3, norm=norm)
        self.first_box = prediction(channels, 4, implicit=implicit)
        self.level_scales = nn.Parameter(torch.ones(len(self.strides)))
        self.box_star = OffsetConv2d(channels, channels)
        self.box = prediction(channels, 4, implicit=implicit)
        self.refine_scales = nn.Parameter(torch.ones(len(self.strides)))
        self.class_star = OffsetConv2d(channels, channels)
        self.class_logits = class_prediction(channels, num_classes, implicit=implicit)

    def forward(self, x: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, C, h, w), refined and first distances (B, 4, h, w) in pixels."""
        class_features, box_features = self.class_tower(x), self.box_tower(x)
        stride = self.strides[level]
        first = self.first_box(self.first_conv(box_features)).float() * self.level_scales[level]
        first = first.exp() * (UNIT * stride)
        offsets = star_offsets(first, stride)
        growth = self.box(F.relu_(self.box_star(box_features, offsets))).float()
        refined = (growth * self.refine_scales[level]).exp() * first.detach()
        logits = self.class_logits(F.relu_(self.class_star(class_features, offsets)))
        return logits, refined, first


class VFNet(Detector):
    """Class loss on every point, against the IoU of its refined box; box losses on the positive
    ones, before and after refining, each weighted by its own IoU.

    The class term is divided by the positives of the batch (at least 1), a box term by the sum of
    its weights (at least 1). Points in the padding count as background, and no assigner sees them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: VFNetHead,
        *,
        priors: PriorGrid,
        criterion: Criterion,
        first_box_weight: float,
        selection: Selection,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.priors = priors
        self.coder = DistanceCoder(stride_units=False)
        self.criterion = criterion
        self.first_box_weight = first_box_weight
        self.selection = selection

    def forward(self, images: Tensor, targets: object = None, sizes: object = None) -> VFNetOutputs:
        """Raw predictions for images (B, 3, H, W); targets and sizes are not used."""
        maps = self.neck(self.backbone(images))
        levels = [self.head(features, level) for level, features in enumerate(maps)]
        logits, boxes, first_boxes = zip(*levels, strict=True)
        return VFNetOutputs(logits, boxes, first_boxes, (images.shape[-2], images.shape[-1]))

    def loss(self, outputs: VFNetOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "box" and "first_box", float32 scalars with their weights."""
        targets = of_every_row(targets, outputs.boxes)
        with torch.autocast(outputs.boxes[0].device.type, enabled=False):
            points = self.priors(outputs.boxes, outputs.canvas)
            matches = match_batch(
                self.criterion.assigner,
                points,
                targets,
                num_classes=self.head.num_classes,
                padding="background",
            )
            count = all_rank_mean(positives_of_batch(matches), at_least=1)
            positive = points.take(matches.prior_index())
            box, iou = self._box_term(self.criterion, outputs.boxes, matches, positive)
            weaker = replace(self.criterion.box_loss, weight=self.first_box_weight)
            first = replace(self.criterion, box_loss=weaker)
            first_box, _ = self._box_term(first, outputs.first_boxes, matches, positive)
            quality = iou.new_zeros(matches.labels.shape)
            quality.view(-1)[matches.positive] = iou
            classes = class_term(
                self.criterion,
                outputs.class_logits,
                matches.labels,
                self.head.num_classes,
                quality if self.criterion.class_loss.needs_quality else None,
                count,
            )
            return {"class": classes, "box": box, "first_box": first_box}

    def _box_term(
        self, criterion: Criterion, maps: tuple[Tensor, ...], matches: Matches, positive: Priors
    ) -> tuple[Tensor, Tensor]:
        """Mean box loss of the distances in `maps`, weighted by the IoU (M,), and that IoU."""
        encoded = flatten_levels(maps, 4).flatten(0, 1)[matches.positive]
        iou = predicted_iou(self.coder, encoded, matches.boxes, positive).clamp(min=MIN_IOU)
        total = box_term(criterion, self.coder, encoded, matches, positive, weights=iou)
        return total / all_rank_mean(iou.sum(), at_least=1), iou

    @torch.no_grad()
    def decode(
        self, outputs: VFNetOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are the class logits' sigmoids, which know the IoU."""
        return decode_batch(
            class_probabilities(outputs.class_logits, self.head.num_classes),
            outputs.boxes,
            image_sizes,
            priors=self.priors(outputs.boxes, outputs.canvas),
            coder=self.coder,
            selection=self.selection,
        )


def star_offsets(distances: Tensor, stride: int) -> Tensor:
    """Offsets (B, 18, h, w) in cells that move the taps of a 3x3 kernel to the centre, the corners
    and the middles of the sides of each cell's box, distances (B, 4, h, w) in pixels.

    The gradient to the distances is a tenth of what it would be (the authors' code).
    """
    slow = OFFSET_SLOPE * distances + (1 - OFFSET_SLOPE) * distances.detach()
    left, top, right, bottom = (slow / stride).unbind(1)  # each (B, h, w)
    zero = torch.zeros_like(left)
    rows, columns = (1 - top, zero, bottom - 1), (1 - left, zero, right - 1)
    return torch.stack([part for y in rows for x in columns for part in (y, x)], dim=1)


def build_vfnet(options: Vfnet, *, num_classes: int) -> VFNet:
    """VarifocalNet from the model section of a recipe.

    anchor_scale: side, in strides, of the square box that assigners look at.
    """
    trunk, pyramid = build_pyramid(options.backbone, options.neck)
    strides = pyramid.strides
    return VFNet(
        trunk,
        pyramid,
        VFNetHead(pyramid.out_channels, options.head, num_classes=num_classes, strides=strides),
        priors=PriorGrid(square_shapes(strides, options.anchor_scale), strides),
        criterion=build_criterion(options, build_assigner(options.assigner)),
        first_box_weight=options.first_box_weight,
        selection=Selection(options.score_threshold, options.topk_per_level),
    )
