"""YOLOv4 (Bochkovskiy et al., arXiv 2004.10934).

Letters: B images, C classes, A anchors per cell, L = 3 levels; h, w cells of a level, H and W of
the padded batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, ConvNorm, init_normal
from detcli.models.backbones.cspdarknet import build_cspdarknet
from detcli.models.dense.decode import Selection, non_empty
from detcli.models.detector import Detector
from detcli.models.yolo_loss import YOLO_LOSSES, YoloLoss
from detcli.ops.boxes import clip_boxes
from detcli.ops.yolo import BOX_OUTPUTS, YoloLevel, build_levels
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.yolov4 import YoloV4

BACKBONES = {"cspdarknet53": build_cspdarknet}
STRIDES = (8, 16, 32)
SPP_SIDES = (13, 9, 5)  # cells; of the max-pools (SPP, arXiv 1406.4729; order as in Darknet)
LEAK = 0.1
PRIOR_PROBABILITY = 0.01  # of every objectness at the start, as RetinaNet's classes


class YOLOv4Outputs(NamedTuple):
    """Raw predictions (B, A * (5 + C), h, w) of each level, finest first: for each anchor x, y, w,
    h, objectness and the classes; canvas: (height, width) of the padded batch."""

    raw: tuple[Tensor, ...]
    canvas: tuple[int, int]


class ConvLeaky(ConvNorm):
    """Convolution, norm, leaky ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, norm: str
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, norm=norm)
        nn.init.kaiming_normal_(self.conv.weight, a=LEAK, mode="fan_out")

    def activate(self, y: Tensor) -> Tensor:
        return F.leaky_relu_(y, LEAK)


class YOLOv4Neck(nn.Module):
    """Spatial pyramid pooling on the coarsest map, then the way from coarse to fine."""

    def __init__(self, in_channels: Sequence[int], *, norm: str) -> None:
        super().__init__()
        widths = [channels // 2 for channels in in_channels]
        self.out_channels = tuple(widths)
        coarse = widths[-1]
        self.before = _alternating(in_channels[-1], coarse, 3, norm)
        self.after = _alternating(coarse * (len(SPP_SIDES) + 1), coarse, 3, norm)
        self.reduce, self.lateral = nn.ModuleList(), nn.ModuleList()
        self.blocks = nn.ModuleList()
        steps = zip(pairwise(reversed(widths)), reversed(in_channels[:-1]), strict=True)
        for (coarser, finer), lateral in steps:
            self.reduce.append(ConvLeaky(coarser, finer, 1, norm=norm))
            self.lateral.append(ConvLeaky(lateral, finer, 1, norm=norm))
            self.blocks.append(_alternating(2 * finer, finer, 5, norm))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, out_channels[i], h, w) per level, finest first, from C3 to C5."""
        x = self.before(maps[-1])
        pools = [F.max_pool2d(x, side, stride=1, padding=side // 2) for side in SPP_SIDES]
        levels = [self.after(torch.cat([*pools, x], dim=1))]
        for fine, reduce, lateral, blocks in zip(
            reversed(maps[:-1]), self.reduce, self.lateral, self.blocks, strict=True
        ):
            size = (fine.shape[2], fine.shape[3])
            enlarged = F.interpolate(reduce(levels[0]), size=size, mode="nearest")
            levels.insert(0, blocks(torch.cat([lateral(fine), enlarged], dim=1)))
        return tuple(levels)


class YOLOv4Head(nn.Module):
    """The way back from fine to coarse (PANet, arXiv 1803.01534), with a prediction at each
    level."""

    def __init__(
        self, in_channels: Sequence[int], *, num_classes: int, num_anchors: Sequence[int], norm: str
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.hidden, self.prediction = nn.ModuleList(), nn.ModuleList()
        self.down, self.blocks = nn.ModuleList(), nn.ModuleList()
        for channels, count in zip(in_channels, num_anchors, strict=True):
            self.hidden.append(ConvLeaky(channels, 2 * channels, 3, norm=norm))
            outputs = count * (BOX_OUTPUTS + num_classes)
            self.prediction.append(_init_prediction(Conv2d(2 * channels, outputs, 1), count))
        for fine, coarse in pairwise(in_channels):
            self.down.append(ConvLeaky(fine, coarse, 3, stride=2, norm=norm))
            self.blocks.append(_alternating(2 * coarse, coarse, 5, norm))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Raw predictions (B, A * (5 + C), h, w) of each level."""
        x = maps[0]
        raw = [self.prediction[0](self.hidden[0](x))]
        for level, (down, blocks) in enumerate(zip(self.down, self.blocks, strict=True), start=1):
            x = blocks(torch.cat([down(x), maps[level]], dim=1))
            raw.append(self.prediction[level](self.hidden[level](x)))
        return tuple(raw)


class YOLOv4(Detector):
    """Objectness and classes as sigmoids, boxes relative to a cell and an anchor; see the losses
    for what they learn."""

    def __init__(
        self,
        backbone: nn.Module,
        neck: YOLOv4Neck,
        head: YOLOv4Head,
        *,
        levels: tuple[YoloLevel, ...],
        criterion: YoloLoss,
        best_class_only: bool,
        selection: Selection,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.levels = levels
        self.criterion = criterion
        self.best_class_only = best_class_only
        self.selection = selection

    def forward(
        self, images: Tensor, targets: object = None, sizes: object = None
    ) -> YOLOv4Outputs:
        """Raw predictions for images (B, 3, H, W); targets and sizes are not used."""
        raw = self.head(self.neck(self.backbone(images)))
        return YOLOv4Outputs(raw, (images.shape[-2], images.shape[-1]))

    def loss(self, outputs: YOLOv4Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "box", "objectness" and "class", float32 scalars with their weights."""
        with torch.autocast(outputs.raw[0].device.type, enabled=False):
            return self.criterion(outputs.raw, self.levels, targets, outputs.canvas)

    @torch.no_grad()
    def decode(
        self, outputs: YOLOv4Outputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; a score is objectness times class probability."""
        decoded = [
            self._decode_level(raw, level)
            for raw, level in zip(outputs.raw, self.levels, strict=True)
        ]
        found = []
        for image, size in enumerate(image_sizes):
            parts: list[tuple[Tensor, Tensor, Tensor]] = []
            for boxes, scores in decoded:
                prior, label = self.selection.best(scores[image])
                boxes_kept = clip_boxes(boxes[image][prior], size)
                parts.append((boxes_kept, scores[image][prior, label], label))
            kept, kept_scores, labels = (torch.cat(column) for column in zip(*parts, strict=True))
            found.append(non_empty(kept, kept_scores, labels))
        return found

    def _decode_level(self, raw: Tensor, level: YoloLevel) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 4) xyxy pixels and scores (B, P, C) of the P = A * h * w priors."""
        parts = level.split(raw).float()  # (B, A, 5 + C, h, w)
        boxes = level.decode(parts[:, :, :4], self.criterion.form)
        scores = parts[:, :, 4:5].sigmoid() * parts[:, :, BOX_OUTPUTS:].sigmoid()
        if self.best_class_only:
            scores = scores * (scores == scores.amax(dim=2, keepdim=True))
        return boxes.flatten(1, 3), scores.permute(0, 1, 3, 4, 2).flatten(1, 3)


def build_yolov4(options: YoloV4, *, num_classes: int) -> YOLOv4:
    """YOLOv4 from the model section of a recipe."""
    trunk = BACKBONES[options.backbone.name](options.backbone, norm=options.norm)
    levels = build_levels(options.anchors, STRIDES, options.scale_xy)
    neck = YOLOv4Neck(trunk.out_channels, norm=options.norm)
    head = YOLOv4Head(
        neck.out_channels,
        num_classes=num_classes,
        num_anchors=[len(level.anchors) for level in levels],
        norm=options.norm,
    )
    return YOLOv4(
        trunk,
        neck,
        head,
        levels=levels,
        criterion=YOLO_LOSSES[options.loss.name](options.loss),
        best_class_only=options.classes_per_box == "best",
        selection=Selection(options.score_threshold, options.topk_per_level),
    )


def _alternating(in_channels: int, channels: int, count: int, norm: str) -> nn.Sequential:
    """`count` convolutions, 1x1 to `channels` and 3x3 to twice as many in turn."""
    layers: list[nn.Module] = []
    for index in range(count):
        outputs, side = (channels, 1) if index % 2 == 0 else (2 * channels, 3)
        layers.append(ConvLeaky(in_channels, outputs, side, norm=norm))
        in_channels = outputs
    return nn.Sequential(*layers)


def _init_prediction(conv: Conv2d, num_anchors: int) -> Conv2d:
    bias = init_normal(conv).get_parameter("bias")
    with torch.no_grad():
        prior = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        bias.view(num_anchors, -1)[:, BOX_OUTPUTS - 1] = prior
    return conv
