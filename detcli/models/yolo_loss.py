"""The two losses of YOLOv4, each with the box code that it is made for.

Letters: B images, A anchors per cell, C classes; h, w cells of a level, N objects of the batch, M
pairs of a prior and an object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from detcli.assign.yolo import Objects, Pairs, join_objects, pairs_by_ratio, pairs_by_shape
from detcli.losses.box import ciou_terms
from detcli.losses.darknet import DarknetCIoU
from detcli.ops.boxes import pairwise_iou
from detcli.ops.reduce import all_rank_mean
from detcli.ops.yolo import BOX_OUTPUTS, YoloLevel, decode_codes
from detcli.phases import phase
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models import yolov4

CONFIDENT = 0.25  # Darknet overlooks a wrong box only if it is for some class at least this sure
MIN_MATCHED = 1.0
TERMS = ("box", "objectness", "class")


class YoloLoss(Protocol):
    """Weighted terms from the raw outputs of all levels, and the box code that they learn."""

    @property
    def form(self) -> str:
        """Box code, see `decode_codes`."""

    def __call__(
        self,
        raw: Sequence[Tensor],
        levels: Sequence[YoloLevel],
        targets: Sequence[Target],
        canvas: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Terms "box", "objectness" and "class", float32 scalars; raw (B, A * (5 + C), h, w) of
        each level, canvas (height, width) of the batch in pixels."""
        ...


@dataclass(frozen=True)
class DarknetLoss:
    """The sum over all cells and objects of an image, averaged over the images (Darknet's
    yolo_layer.c with the settings of yolov4.cfg).

    options: box_weight is the factor of 1 - CIoU, whose slope is that of `DarknetCIoU` with
    max_slope; min_iou: see `pairs_by_shape`; ignore_iou: a prior without an object whose box has a
    larger IoU with one is no background. An object that shares its prior with those of other
    classes counts as one of so many in the box term.
    """

    options: yolov4.DarknetLoss
    form: ClassVar[str] = "exp"

    def __call__(
        self,
        raw: Sequence[Tensor],
        levels: Sequence[YoloLevel],
        targets: Sequence[Target],
        canvas: tuple[int, int],
    ) -> dict[str, Tensor]:
        objects = join_objects(targets)
        images, grids = _mean_images(targets), [_grid(maps) for maps in raw]
        with phase("assignment"):
            found = pairs_by_shape(objects, levels, grids, self.options.min_iou)
        terms = {name: raw[0].new_zeros((), dtype=torch.float32) for name in TERMS}
        for maps, level, pairs in zip(raw, levels, found, strict=True):
            parts = level.split(maps).float()
            positive, classes = _wanted(parts, pairs, objects.labels)
            overlooked = self._overlooked(parts, level, targets) & ~positive
            counted = ~(overlooked | _in_ignored(positive, level, targets))
            terms["objectness"] += _objectness(parts, positive.float(), counted | positive).sum()
            logits = parts.permute(0, 1, 3, 4, 2)[positive][:, BOX_OUTPUTS:]
            terms["class"] += _cross_entropy(logits, classes[positive].float()).sum()
            terms["box"] += self._box(parts, level, pairs, objects, classes, canvas)
        return {name: value / images for name, value in terms.items()}

    def _box(
        self,
        parts: Tensor,
        level: YoloLevel,
        pairs: Pairs,
        objects: Objects,
        classes: Tensor,
        canvas: tuple[int, int],
    ) -> Tensor:
        codes, pred = _predicted(parts, level, pairs, self.form)
        unit = pred.new_tensor([canvas[1], canvas[0]]).repeat(2)
        num_classes = classes[pairs.prior].sum(dim=1).clamp(min=1)
        total: Tensor = DarknetCIoU.apply(
            codes,
            _to_center(pred.detach() / unit),
            _to_center(objects.boxes[pairs.object] / unit),
            1 / num_classes,
            self.options.box_weight,
            self.options.max_slope,
        )
        return total

    @torch.no_grad()
    def _overlooked(self, parts: Tensor, level: YoloLevel, targets: Sequence[Target]) -> Tensor:
        """(B, A, h, w) bool: priors whose boxes are good enough not to be background."""
        boxes = level.decode(parts[:, :, :4], self.form)
        sure = parts[:, :, BOX_OUTPUTS:].sigmoid().amax(dim=2) > CONFIDENT
        close = torch.zeros_like(sure)
        for image, target in enumerate(targets):
            if len(target.labels):
                iou = pairwise_iou(boxes[image].flatten(0, 2), target.boxes).amax(dim=1)
                close[image] = (iou > self.options.ignore_iou).view_as(close[image])
        return close & sure


@dataclass(frozen=True)
class ScaledLoss:
    """Means over the positives and over the cells of each level (WongKinYiu/PyTorch_YOLOv4).

    The objectness of a positive learns its CIoU. options: level_weights, of each level's
    objectness; max_ratio: see `pairs_by_ratio`. The sum is not multiplied by the batch, as it is
    there, nor class_weight by the number of classes over 80; one class alone is learned too.
    """

    options: yolov4.ScaledLoss
    form: ClassVar[str] = "power"

    def __call__(
        self,
        raw: Sequence[Tensor],
        levels: Sequence[YoloLevel],
        targets: Sequence[Target],
        canvas: tuple[int, int],
    ) -> dict[str, Tensor]:
        objects = join_objects(targets)
        images, grids = _mean_images(targets), [_grid(maps) for maps in raw]
        with phase("assignment"):
            found = pairs_by_ratio(objects, levels, grids, self.options.max_ratio)
        counts = raw[0].new_tensor([len(pairs.object) for pairs in found], dtype=torch.float32)
        counts = all_rank_mean(counts, at_least=MIN_MATCHED)
        terms = {name: raw[0].new_zeros((), dtype=torch.float32) for name in TERMS}
        for index, (maps, level, pairs) in enumerate(zip(raw, levels, found, strict=True)):
            parts = level.split(maps).float()
            _, pred = _predicted(parts, level, pairs, self.form)
            losses = ciou_terms(pred, objects.boxes[pairs.object])
            terms["box"] += losses.sum() / counts[index] * self.options.box_weight
            wanted = parts.new_zeros(parts[:, :, 0].shape)
            wanted[pairs.prior] = (1 - losses.detach()).clamp(min=0)
            positive = torch.zeros_like(wanted, dtype=torch.bool)
            positive[pairs.prior] = True
            counted = ~_in_ignored(positive, level, targets)
            total = _objectness(parts, wanted, counted).sum() / (images * wanted[0].numel())
            total = total * self.options.level_weights[index]
            terms["objectness"] += total * self.options.objectness_weight
            logits = parts.permute(0, 1, 3, 4, 2)[pairs.prior][:, BOX_OUTPUTS:]
            labels = F.one_hot(objects.labels[pairs.object], logits.shape[1]).float()
            total = _cross_entropy(logits, labels).sum() / (counts[index] * logits.shape[1])
            terms["class"] += total * self.options.class_weight
        return terms


YOLO_LOSSES: dict[str, Callable[[Any], YoloLoss]] = {"darknet": DarknetLoss, "scaled": ScaledLoss}


def _predicted(parts: Tensor, level: YoloLevel, pairs: Pairs, form: str) -> tuple[Tensor, Tensor]:
    """Codes (M, 4) of the positives and the boxes (M, 4) xyxy pixels that they stand for; parts
    (B, A, 5 + C, h, w)."""
    codes = parts.permute(0, 1, 3, 4, 2)[pairs.prior][:, :4]
    cells = torch.stack([pairs.column, pairs.row], dim=1)
    anchors = level.sizes(codes)[pairs.anchor]
    return codes, decode_codes(codes, cells=cells, anchors=anchors, level=level, form=form)


def _wanted(parts: Tensor, pairs: Pairs, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, A, h, w) bool: priors with an object; (B, A, h, w, C) bool: the classes of these."""
    images, anchors, width, height, cells = parts.shape
    classes = torch.zeros(
        images, anchors, height, cells, width - BOX_OUTPUTS, dtype=torch.bool, device=parts.device
    )
    index = (*pairs.prior, labels[pairs.object])
    classes[index] = True
    return classes.any(dim=-1), classes


def _objectness(parts: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """(B, A, h, w) cross entropy of the objectness, 0 where it does not count."""
    return _cross_entropy(parts[:, :, 4], wanted) * counted


def _in_ignored(like: Tensor, level: YoloLevel, targets: Sequence[Target]) -> Tensor:
    """(B, A, h, w) bool: priors without an object, as `like` says, in cells whose middle lies in
    a region that counts neither way."""
    inside = torch.zeros_like(like)
    height, width = like.shape[2:]
    x = (torch.arange(width, device=like.device) + 0.5) * level.stride
    y = (torch.arange(height, device=like.device) + 0.5) * level.stride
    for image, target in enumerate(targets):
        left, top, right, bottom = target.ignore_boxes[:, :, None].unbind(1)  # (K, 1) each
        columns, rows = (x >= left) & (x <= right), (y >= top) & (y <= bottom)
        inside[image] = (rows[:, :, None] & columns[:, None, :]).any(dim=0)
    return inside & ~like


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def _to_center(boxes: Tensor) -> Tensor:
    """cxcywh of boxes (M, 4) xyxy."""
    low, high = boxes.chunk(2, dim=1)
    return torch.cat([(low + high) / 2, high - low], dim=1)


def _mean_images(targets: Sequence[Target]) -> Tensor:
    """The number of images of a rank, a float scalar."""
    return all_rank_mean(targets[0].boxes.new_tensor(float(len(targets))))


def _grid(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]
