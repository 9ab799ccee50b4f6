"""SSD (arXiv 1512.02325).

Letters: B images, C classes, A anchors per cell of a level, L levels; h, w cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.assign import build_assigner
from detcli.errors import UsageError
from detcli.layers.conv import Conv2d, init_xavier
from detcli.layers.cosine import CosineConv2d
from detcli.models.backbones.vgg import build_vgg16
from detcli.models.dense.decode import Selection
from detcli.models.dense.detector import DenseDetector, Learning
from detcli.models.dense.estimates import Estimates
from detcli.models.dense.matching import positives_of_each_image
from detcli.models.dense.terms import build_criterion
from detcli.ops.coders import DeltaCoder, DistanceCoder
from detcli.ops.priors import Priors, grid_priors

if TYPE_CHECKING:
    from detcli.recipe.sections.models import ssd

BACKBONES = {"vgg16": build_vgg16}
L2_SCALE = 20.0  # of conv4_3 at the start (section 3.1; ParseNet, arXiv 1506.04579)
L2_EPS = 1e-10


class SSDNeck(nn.Module):
    """conv4_3 at a length of its own, fc7 as it is, and further levels.

    Each further level is a 1x1 convolution to half its channels and a 3x3 (the last one of side
    `last_kernel`) with its stride and padding, each with a ReLU.
    """

    def __init__(self, in_channels: Sequence[int], options: ssd.SsdNeck) -> None:
        super().__init__()
        out_channels = options.out_channels
        self.out_channels = (*in_channels, *out_channels)
        self.l2_scale = nn.Parameter(torch.full((in_channels[0],), L2_SCALE))
        self.squeeze, self.extra = nn.ModuleList(), nn.ModuleList()
        kernels = [3] * (len(out_channels) - 1) + [options.last_kernel]
        widths = pairwise((in_channels[-1], *out_channels))
        for (before, after), kernel, stride, padding in zip(
            widths, kernels, options.strides, options.paddings, strict=True
        ):
            self.squeeze.append(Conv2d(before, after // 2, 1))
            self.extra.append(nn.Conv2d(after // 2, after, kernel, stride, padding))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_xavier(module)

    def forward(self, maps: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """One map (B, out_channels[l], h, w) per level, from conv4_3 and fc7.

        Raises UsageError when the images are too small for the levels.
        """
        fine, x = maps
        unit = F.normalize(fine.float(), dim=1, eps=L2_EPS)
        levels = [(unit * self.l2_scale[:, None, None]).to(fine.dtype), x]
        for squeeze, extra in zip(self.squeeze, self.extra, strict=True):
            assert isinstance(extra, nn.Conv2d)
            x = F.relu_(squeeze(x))
            room = extra.kernel_size[0] - 2 * int(extra.padding[0])
            if min(x.shape[2:]) < room:
                raise UsageError(
                    f"model.neck: level {len(levels)} needs feature maps of at least {room} cells "
                    f"a side, got {x.shape[2]} x {x.shape[3]}: use larger images (data.resize) or "
                    "fewer levels"
                )
            x = F.relu_(extra(x))
            levels.append(x)
        return tuple(levels)


class SSDHead(nn.Module):
    """A 3x3 convolution per level for the classes, and one for the boxes.

    cosine_scale: the class logits are this x cosines (see `CosineConv2d`); None: as published.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        num_classes: int,
        num_anchors: Sequence[int],
        cosine_scale: float | None,
        distances: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.estimates = Estimates()
        self.distances = distances
        self.class_logits, self.box = nn.ModuleList(), nn.ModuleList()
        for channels, count in zip(in_channels, num_anchors, strict=True):
            outputs = count * (num_classes + 1)
            self.class_logits.append(
                init_xavier(Conv2d(channels, outputs, 3))
                if cosine_scale is None
                else CosineConv2d(channels, outputs, scale=cosine_scale)
            )
            self.box.append(init_xavier(Conv2d(channels, count * 4, 3)))

    def forward(self, x: Tensor, level: int) -> tuple[Tensor | None, ...]:
        """Class logits (B, A * (C + 1), h, w), background last, and boxes (B, A * 4, h, w) of a
        level: deltas, or distances in strides; nothing is estimated beside them."""
        boxes = self.box[level](x)
        logits = self.class_logits[level](x)
        return logits, F.relu(boxes) if self.distances else boxes, *[None] * 4


class SSDAnchors(nn.Module):
    """The anchors of each level, around the middle of each cell.

    options: sizes, L + 1 sides in pixels. A cell of level l has squares of the sides sizes[l] and
    sqrt(sizes[l] sizes[l + 1]), then for each r of ratios[l] two boxes with the area of the first
    square, r times as wide as high and r times as high as wide. strides: pixels per cell of each
    level; clip: no side is longer than that of the batch (torchvision).
    """

    shapes: Tensor

    def __init__(self, options: ssd.SsdAnchors) -> None:
        super().__init__()
        self.strides = options.strides
        self.clip = options.clip
        self.num_anchors = tuple(2 + 2 * len(level) for level in options.ratios)
        shapes = [
            ssd_shapes(size, larger, level)
            for (size, larger), level in zip(pairwise(options.sizes), options.ratios, strict=True)
        ]
        self.register_buffer("shapes", torch.cat(shapes), persistent=False)

    def forward(self, maps: Sequence[Tensor], canvas: tuple[int, int]) -> Priors:
        """Priors of maps (B, *, h, w), one per level, of a padded batch of `canvas` pixels."""
        shapes = self.shapes.float()
        if self.clip:
            half = shapes.new_tensor([canvas[1], canvas[0]]) / 2
            shapes = torch.cat([shapes[:, :2].maximum(-half), shapes[:, 2:].minimum(half)], dim=1)
        return grid_priors(
            [(level.shape[-2], level.shape[-1]) for level in maps],
            self.strides,
            torch.split(shapes, list(self.num_anchors)),
            offset=0.5,
        )


def build_ssd(options: ssd.Ssd, *, num_classes: int) -> DenseDetector:
    """SSD from the model section of a recipe.

    Class loss on the anchors that mining keeps. Both terms are divided by the sum over the images
    of max(1, positives). Images are expected to fill the batch: padding is background.
    """
    trunk = BACKBONES[options.backbone.name](options.backbone)
    levels, anchors = SSDNeck(trunk.out_channels, options.neck), SSDAnchors(options.anchors)
    distances, class_loss = options.regression == "point", options.class_loss
    head = SSDHead(
        levels.out_channels,
        num_classes=num_classes,
        num_anchors=anchors.num_anchors,
        cosine_scale=class_loss.scale if class_loss.name == "am_softmax" else None,
        distances=distances,
    )
    return DenseDetector(
        trunk,
        levels,
        head,
        priors=anchors,
        coder=DistanceCoder(stride_units=True) if distances else DeltaCoder(options.delta_stds),
        learning=Learning(
            build_criterion(options, build_assigner(options.assigner)),
            padding="seen",
            normaliser=positives_of_each_image,
        ),
        selection=Selection(options.score_threshold, options.topk_per_level),
        auxiliary=None,
    )


def ssd_shapes(size: float, larger: float, ratios: Sequence[float]) -> Tensor:
    """Corners (A, 4) of one cell's anchors around its middle, float32; see `SSDAnchors`."""
    ratio = torch.tensor([1.0, 1.0, *(side for r in ratios for side in (1 / r, r))])
    growth = torch.ones_like(ratio)
    growth[1] = (larger / size) ** 0.5
    height = ratio.sqrt()
    width = 1 / height
    half = torch.stack([width * growth, height * growth], dim=1) * size / 2
    return torch.cat([-half, half], dim=1)
