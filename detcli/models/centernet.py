"""CenterNet: objects as points (arXiv 1904.07850).

Letters: B images, C classes, h and w cells of the map, D its channels, N objects of the batch, K
peaks of one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.assign.center import CenterAssigner
from detcli.layers.conv import Conv2d, zero_bias
from detcli.losses.heatmap import GaussianFocal
from detcli.models.backbones.dla import build_dla34
from detcli.models.backbones.resnet import build_resnet
from detcli.models.backbones.timm import TimmBackbone, build_timm
from detcli.models.dense.decode import Selection, non_empty
from detcli.models.detector import Detector
from detcli.models.necks.deconv import DeconvNeck
from detcli.models.necks.dla_up import DLAUp
from detcli.ops.boxes import clip_boxes
from detcli.ops.reduce import all_rank_mean
from detcli.phases import phase
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models import centernet

BACKBONES: dict[str, Callable[..., Any]] = {
    "resnet": build_resnet,
    "dla34": build_dla34,
    "timm": build_timm,
}
NECKS: dict[str, Callable[..., DeconvNeck | DLAUp]] = {"deconv": DeconvNeck, "dla_up": DLAUp}
PRIOR_PROBABILITY = 0.1  # of every class at the start (section 5)
PEAK_SIDE = 3  # cells; a peak is the highest of its neighbourhood


class CenterNetOutputs(NamedTuple):
    """Raw predictions, one map each.

    class_logits (B, C, h, w): peaks at centres; sizes (B, 2, h, w): width and height in cells;
    offsets (B, 2, h, w): of a centre from the top left corner of its cell, x and y, in cells;
    canvas: (height, width) of the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    sizes: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    canvas: tuple[int, int]


class CenterNetHead(nn.Module):
    """Three branches of a 3x3 convolution to `channels`, a ReLU and a 1x1 convolution."""

    def __init__(self, in_channels: int, *, num_classes: int, channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_logits = _branch(in_channels, channels, num_classes, std=0.01)
        self.size = _branch(in_channels, channels, 2, std=0.001)
        self.offset = _branch(in_channels, channels, 2, std=0.001)
        prior = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        nn.init.constant_(self.class_logits[-1].get_parameter("bias"), prior)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, C, h, w), sizes (B, 2, h, w) and offsets (B, 2, h, w) of a map."""
        return self.class_logits(x), self.size(x), self.offset(x)


class CenterNet(Detector):
    """Focal loss on heat maps divided by the number of peaks, L1 on sizes and offsets at the
    centres divided by twice the number of objects: their two numbers are averaged."""

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: CenterNetHead,
        *,
        assigner: CenterAssigner,
        class_loss: GaussianFocal,
        size_weight: float,
        offset_weight: float,
        selection: Selection,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.assigner = assigner
        self.class_loss = class_loss
        self.size_weight = size_weight
        self.offset_weight = offset_weight
        self.selection = selection

    def forward(
        self, images: Tensor, targets: object = None, sizes: object = None
    ) -> CenterNetOutputs:
        """Raw predictions for images (B, 3, H, W); targets and sizes are not used."""
        (features,) = self.neck(self.backbone(images))
        logits, sides, offsets = self.head(features)
        return CenterNetOutputs(
            (logits,), (sides,), (offsets,), (images.shape[-2], images.shape[-1])
        )

    def loss(self, outputs: CenterNetOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "size" and "offset", float32 scalars with their weights."""
        (logits,), (sizes,), (offsets,), canvas = outputs
        with torch.autocast(logits.device.type, enabled=False):
            with phase("assignment"):
                wanted = self.assigner(
                    targets,
                    num_classes=self.head.num_classes,
                    grid=(logits.shape[2], logits.shape[3]),
                    canvas=canvas,
                )
            counts = torch.stack([wanted.num_peaks, wanted.num_objects])
            peaks, objects = all_rank_mean(counts, at_least=self.assigner.min_peaks)
            regressed = {
                name: F.l1_loss(_at_cells(maps, wanted.cells), target, reduction="sum")
                for name, maps, target in (
                    ("size", sizes, wanted.sizes),
                    ("offset", offsets, wanted.offsets),
                )
            }
            return {
                "class": self.class_loss(logits, wanted.heatmaps, wanted.ignored) / peaks,
                "size": regressed["size"] * self.size_weight / (2 * objects),
                "offset": regressed["offset"] * self.offset_weight / (2 * objects),
            }

    @torch.no_grad()
    def decode(
        self, outputs: CenterNetOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """The highest peaks of each image, less those whose box is empty; suppression has nothing
        to do: postprocess method "none" is as published."""
        (logits,), (sizes,), (offsets,), canvas = outputs
        scores = logits.float().sigmoid()
        highest = F.max_pool2d(scores, PEAK_SIDE, stride=1, padding=PEAK_SIDE // 2)
        height, width = logits.shape[2:]
        scale = scores.new_tensor([canvas[1] / width, canvas[0] / height]).repeat(2)
        found = []
        for image, size in enumerate(image_sizes):
            enough = scores[image] > self.selection.score_threshold
            is_peak = (scores[image] == highest[image]) & enough
            label, row, column = is_peak.nonzero(as_tuple=True)
            score = scores[image][is_peak]
            best = score.argsort(descending=True, stable=True)[: self.selection.topk_per_level]
            label, row, column = label[best], row[best], column[best]
            cell = torch.stack([column, row], dim=1)
            center = cell + offsets[image, :, row, column].T.float()  # (K, 2)
            half = sizes[image, :, row, column].T.float() / 2
            boxes = torch.cat([center - half, center + half], dim=1) * scale
            found.append(non_empty(clip_boxes(boxes, size), score[best], label))
        return found


def build_centernet(options: centernet.CenterNet, *, num_classes: int) -> CenterNet:
    """CenterNet from the model section of a recipe."""
    trunk = BACKBONES[options.backbone.name](options.backbone)
    decoder = NECKS[options.neck.name](trunk.out_channels, options.neck)
    if isinstance(trunk, TimmBackbone):
        trunk.train_for(32)  # the one map that the decoder reads
    rule, focal = options.assigner, options.class_loss
    return CenterNet(
        trunk,
        decoder,
        CenterNetHead(
            decoder.out_channels, num_classes=num_classes, channels=options.head.channels
        ),
        assigner=CenterAssigner(rule.radius, rule.min_overlap, rule.whole_cells, rule.shared_cells),
        class_loss=GaussianFocal(focal.alpha, focal.beta, focal.min_probability, focal.weight),
        size_weight=options.size_weight,
        offset_weight=options.offset_weight,
        selection=Selection(options.score_threshold, options.topk_per_level),
    )


def _branch(in_channels: int, channels: int, outputs: int, *, std: float) -> nn.Sequential:
    """The two convolutions; std: of the second one's weights at the start."""
    hidden, last = Conv2d(in_channels, channels, 3), Conv2d(channels, outputs, 1)
    nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
    nn.init.normal_(last.weight, std=std)
    for conv in (hidden, last):
        zero_bias(conv)
    return nn.Sequential(hidden, nn.ReLU(inplace=True), last)


def _at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """(N, 2) float32: the numbers of maps (B, 2, h, w) at cells (N,) of all B * h * w."""
    return maps.float().permute(0, 2, 3, 1).reshape(-1, 2)[cells]
