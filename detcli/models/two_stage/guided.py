"""Anchors that the network predicts itself (guided anchoring, arXiv 1901.03278).

Letters: B images, P cells of all levels of one image, D channels of a map, G objects of one image,
M positives of the batch; h, w cells of a level. Each cell has one anchor: a square of the level's
size whose sides are predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.assign import IGNORED, NEGATIVE, Assigner, MaxIoUAssigner, ignore_inside
from detcli.assign.sampling import RandomSampler
from detcli.layers.conv import Conv2d, init_normal
from detcli.layers.deform import TAPS, OffsetConv2d
from detcli.losses.box import bounded_iou_terms
from detcli.losses.classification import ClassLoss, Focal
from detcli.models.dense.matching import assign_batch, cells_inside, objects_of
from detcli.models.dense.prior_grid import PriorGrid, octave_sizes, square_shapes
from detcli.models.dense.tower import flatten_levels, start_rare
from detcli.ops.boxes import box_area
from detcli.ops.coders import DeltaCoder
from detcli.ops.priors import Priors, anchor_shapes
from detcli.ops.reduce import all_rank_mean
from detcli.phases import phase
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.guided import Guidance as GuidanceSection

OFFSET_GROUPS = 4  # of the adaption's channels
MAX_LOG_SHAPE = -math.log(1e-6)
NEGATIVE_WEIGHT = 0.1  # of cells away from all objects in the location loss
CELLS_PER_SAMPLE = 200  # the location loss is divided by the number of cells / this
FOCAL = Focal(alpha=0.25, gamma=2.0, label_smoothing=0.0)


class FeatureAdaption(nn.Module):
    """A deformable convolution that looks where the cell's predicted anchor is, then a ReLU; the
    shape gets no gradient from it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = Conv2d(2, OFFSET_GROUPS * 2 * TAPS, 1, bias=False)
        self.conv = OffsetConv2d(channels, channels)
        nn.init.normal_(self.offset.weight, std=0.1)
        nn.init.normal_(self.conv.weight, std=0.01)

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """(B, D, h, w) to the same shape; shape (B, 2, h, w): logarithms of the sides."""
        return F.relu_(self.conv(x, self.offset(shape.detach())))


class Guidance(nn.Module):
    """How locations and shapes of anchors are learned on maps of these strides.

    options: base_scale is the side of a level's square in strides; shape_std: the network's outputs
    times this are the logarithms of the sides over the square's; location_target: cells at objects'
    centres are positive ("center"), or all others are ("rest"): MMDetection's loss since 2.0, which
    counts its classes from 0, takes their label 1 for background; center_ratio, ignore_ratio: share
    of an object's sides within which cells of its level are positive, or not negative;
    location_weight, shape_weight: factors of the losses; location_threshold: cells whose location
    is less probable have no anchor in inference; shape_assigner and sampler: which cells learn an
    object's shape, from the anchors that would be there otherwise.
    """

    def __init__(self, strides: Sequence[int], options: GuidanceSection) -> None:
        super().__init__()
        self.options = options
        self.squares = PriorGrid(square_shapes(strides, options.base_scale), strides)
        sizes = octave_sizes(strides, options)
        shapes = torch.stack([anchor_shapes(level, options.ratios) for level in sizes])
        self.approximations = PriorGrid(shapes, strides)
        thresholds = options.shape_assigner
        self.assigner = MaxIoUAssigner(
            thresholds.positive_iou,
            thresholds.negative_iou,
            thresholds.min_positive_iou,
            group=self.approximations.num_anchors,
        )
        self.sampler = RandomSampler(options.sampler.num, options.sampler.positive_share)

    def losses(
        self,
        locations: tuple[Tensor, ...],
        shapes: tuple[Tensor, ...],
        targets: Sequence[Target],
        canvas: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Terms "location" and "shape", float32 scalars with their weights, of maps (B, 1, h, w)
        and (B, 2, h, w) of a padded batch of `canvas` pixels."""
        squares, approximations = self.squares(shapes, canvas), self.approximations(shapes, canvas)
        rows = flatten_levels(shapes, 2)
        return {
            "location": self.location_loss(locations, targets),
            "shape": self.shape_loss(rows, approximations, squares, targets),
        }

    def location_loss(self, maps: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Focal loss of the location logits, maps (B, 1, h, w): an object is looked for on one
        level, by its size, around its centre."""
        criterion = ClassLoss(FOCAL, self.options.location_weight)
        total = maps[0].new_zeros((), dtype=torch.float32)
        for index, logits in enumerate(maps):
            size = (logits.shape[2], logits.shape[3])
            wanted = [self._locations(target.boxes, index, size) for target in targets]
            positive = torch.stack([center for center, _ in wanted])
            if self.options.location_target == "rest":
                positive = ~positive
            labels = (~positive).long()  # 1: background
            weights = torch.stack([weight for _, weight in wanted])
            total = total + criterion(
                logits.reshape(-1, 1), labels.flatten(), weights=weights.flatten()
            )
        cells = sum(level.numel() for level in maps)
        return total / all_rank_mean(total.new_tensor(cells / CELLS_PER_SAMPLE))

    def _locations(self, boxes: Tensor, level: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(h, w) bool whether a cell is positive, (h, w) float its weight.

        Where regions of several objects of this level meet, the last object decides the weight.
        """
        strides = self.squares.strides
        smallest = self.options.base_scale * strides[0]
        own = (box_area(boxes).sqrt() / smallest).log2().add(0.5).floor()
        own = own.clamp(0, len(strides) - 1)
        here, beside = own == level, (own - level).abs() == 1
        cells = boxes / strides[level]
        near = _region(cells, self.options.ignore_ratio, size)  # (G, h, w)
        center = _region(cells[here], self.options.center_ratio, size)
        weight = boxes.new_full(size, NEGATIVE_WEIGHT)
        weight[near[beside].any(dim=0)] = 0
        if len(center):
            number = torch.arange(1, len(center) + 1, device=boxes.device)[:, None, None]
            last = (near[here] * number).amax(dim=0)  # (h, w), 0: none
            inside = center.gather(0, (last - 1).clamp(min=0)[None])[0]
            weight = inside.to(weight.dtype).where(last > 0, weight)
        return center.any(dim=0), weight

    def shape_loss(
        self, shapes: Tensor, approximations: Priors, squares: Priors, targets: Sequence[Target]
    ) -> Tensor:
        """Bounded IoU loss of the anchors from shapes (B, P, 2) with the objects whose
        approximations overlap most, over the samples of all images."""
        sampled = torch.stack(
            [self.sampler(self._match(approximations, squares, target)) for target in targets]
        )  # (B, P)
        positive = (sampled >= 0).flatten().nonzero().squeeze(1)
        objects = objects_of(sampled, positive, targets)
        boxes = torch.cat([target.boxes for target in targets])[objects]
        anchors = self._anchors(
            shapes.flatten(0, 1)[positive], squares.take(positive % sampled.shape[1])
        )
        counts = [(sampled >= 0).sum(dim=1), (sampled == NEGATIVE).sum(dim=1)]
        samples = sum(count.clamp(min=1).sum().float() for count in counts)
        assert isinstance(samples, Tensor)
        total = bounded_iou_terms(anchors, boxes).sum()
        return self.options.shape_weight * total / all_rank_mean(samples)

    def anchors(self, maps: Sequence[Tensor], canvas: tuple[int, int]) -> list[Priors]:
        """The anchors of each image of a padded batch of `canvas` pixels, from shapes (B, 2, h, w);
        without a gradient."""
        squares = self.squares(maps, canvas)
        shapes = flatten_levels(tuple(maps), 2).detach()
        return [
            Priors(
                self._anchors(image, squares), squares.centers, squares.strides, squares.level_sizes
            )
            for image in shapes
        ]

    def _anchors(self, shapes: Tensor, squares: Priors) -> Tensor:
        """Anchors (M, 4) from shapes (M, 2)."""
        deltas = torch.cat([torch.zeros_like(shapes), shapes], dim=1).float()
        coder = DeltaCoder((self.options.shape_std,) * 4, max_log_scale=MAX_LOG_SHAPE)
        return coder.decode(deltas, squares)

    def _match(self, approximations: Priors, squares: Priors, target: Target) -> Tensor:
        """(P,) int64: the object whose shape each cell learns, NEGATIVE or IGNORED; cells in the
        padding are ignored."""
        inside = cells_inside(squares, target.size)
        share = len(approximations) // len(squares)
        seen = approximations.select(inside.repeat_interleave(share))
        matched = target.labels.new_full((len(squares),), IGNORED)
        with phase("assignment"):
            matched[inside] = self.assigner(seen, target.boxes)
        return ignore_inside(matched, squares.centers, target.ignore_boxes)


def location_and_shape(channels: int) -> tuple[Conv2d, Conv2d]:
    """The 1x1 convolutions to a location's logit, rare in the beginning, and to a shape."""
    location, shape = Conv2d(channels, 1, 1), Conv2d(channels, 2, 1)
    nn.init.normal_(location.weight, std=0.01)
    init_normal(shape)
    start_rare(location)
    return location, shape


def assign_guided(
    assigner: Assigner, anchors: Sequence[Priors], targets: Sequence[Target]
) -> Tensor:
    """(B, P) int64 as `assign_batch` gives it, with the anchors of each image; those whose cell
    lies in the padding are ignored."""
    return torch.cat(
        [
            assign_batch(assigner, own, [target], padding="ignored")
            for own, target in zip(anchors, targets, strict=True)
        ]
    )


def joined_anchors(anchors: Sequence[Priors]) -> Priors:
    """The anchors of all images, one after another, as a single level."""
    boxes = torch.cat([own.boxes for own in anchors])
    return Priors(
        boxes,
        torch.cat([own.centers for own in anchors]),
        torch.cat([own.strides for own in anchors]),
        (len(boxes),),
    )


def _region(cells: Tensor, ratio: float, size: tuple[int, int]) -> Tensor:
    """(G, h, w) bool: the middle `ratio` of each box, cells (G, 4) xyxy in cells, corners rounded
    and both included."""
    edge = (1 - ratio) / 2
    first = ((1 - edge) * cells[:, :2] + edge * cells[:, 2:]).round().clamp(min=0)
    last = (edge * cells[:, :2] + (1 - edge) * cells[:, 2:]).round().clamp(min=0)
    rows = torch.arange(size[0], device=cells.device)
    columns = torch.arange(size[1], device=cells.device)
    in_row = (rows >= first[:, 1:]) & (rows <= last[:, 1:])  # (G, h)
    in_column = (columns >= first[:, :1]) & (columns <= last[:, :1])  # (G, w)
    return in_row[:, :, None] & in_column[:, None, :]
