"""What a dense head says about each of its boxes beside class and place, for suppression to use.

Letters: B images, P priors of one level, A priors per cell, C classes, D channels of a map,
M positives of the batch; h, w cells of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor, nn

from detcli.layers.conv import Conv2d
from detcli.losses import KL
from detcli.losses.box import deviation
from detcli.models.dense.centerness_branch import CenternessBranch
from detcli.models.dense.density_branch import DensityBranch, DensityNet, level_densities
from detcli.models.dense.iou_branch import IoUBranch
from detcli.models.dense.matching import Matches
from detcli.models.dense.tower import flatten_levels, prediction
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.atss import Atss
    from detcli.recipe.sections.models.fcos import Fcos
    from detcli.recipe.sections.models.nas_fcos import NasFcos
    from detcli.recipe.sections.models.retinanet import RetinaNet

ALPHA_STD = 0.0001  # of the weights that predict variances (KL loss, arXiv 1809.08545, 3.3)


class DenseOutputs(NamedTuple):
    """Raw predictions, one entry per level, channels anchor-major.

    class_logits (B, A * C, h, w), for a soft-max (B, A * (C + 1), h, w), background last; boxes
    (B, A * 4, h, w), as the detector's coder reads them. Empty where it is not predicted:
    centerness (B, 1, h, w), logits; iou (B, A, h, w), logits; sigma (B, A * 4, h, w), log variances
    of the errors of left, top, right and bottom; density (B, A, h, w). auxiliary: the outputs of
    the auxiliary head, in training and where there is one; canvas: (height, width) of the padded
    batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    centerness: tuple[Tensor, ...]
    iou: tuple[Tensor, ...]
    sigma: tuple[Tensor, ...]
    density: tuple[Tensor, ...]
    auxiliary: tuple[DenseOutputs, ...]
    canvas: tuple[int, int]


@dataclass(frozen=True)
class Estimates:
    """What is predicted, and how it is learned.

    centerness: its loss, and what it does to box losses and scores; iou: its loss, and its share
    in the scores; sigma: how uncertain each side is, which the box loss teaches; density: its loss.
    None or False: not predicted.
    """

    centerness: CenternessBranch | None = None
    iou: IoUBranch | None = None
    sigma: bool = False
    density: DensityBranch | None = None

    def layers(
        self, channels: int, num_anchors: int, *, implicit: bool
    ) -> tuple[Conv2d | None, Conv2d | None, DensityNet | None]:
        """Predictions of IoU and variances, from a box tower, and the net that predicts densities,
        from a map, of `channels`; implicit: see `prediction`."""
        iou = sigma = None
        if self.iou is not None:
            iou = prediction(channels, num_anchors, implicit=implicit)
        if self.sigma:
            sigma = prediction(channels, num_anchors * 4, implicit=implicit)
            nn.init.normal_(sigma.weight, std=ALPHA_STD)
        return iou, sigma, None if self.density is None else DensityNet(channels, num_anchors)

    def alpha(self, outputs: DenseOutputs, matches: Matches) -> Tensor | None:
        """Log variances (M, 4) of the sides of the positives; None where they are not predicted."""
        if not self.sigma:
            return None
        return flatten_levels(outputs.sigma, 4).flatten(0, 1)[matches.positive].float()

    def losses(
        self,
        outputs: DenseOutputs,
        encoded: Tensor,
        matches: Matches,
        targets: Sequence[Target],
        *,
        coder: BoxCoder,
        priors: Priors,
    ) -> dict[str, Tensor]:
        """Terms "iou" and "density", summed over the positives, encoded (M, 4) from priors (M)."""
        terms = {}
        if self.iou is not None:
            terms["iou"] = self.iou.loss(outputs.iou, coder, encoded, matches, priors)
        if self.density is not None:
            terms["density"] = self.density.loss(outputs.density, matches, targets)
        return terms

    def columns(
        self, outputs: DenseOutputs, coder: BoxCoder, priors: Priors
    ) -> dict[str, list[Tensor]]:
        """Columns of the candidates by name, per level: "iou" and "density" (B, P), "sigma"
        (B, P, 4), standard deviations of the sides in pixels."""
        columns = {}
        if self.iou is not None:
            columns["iou"] = [
                flatten_levels((level,), 1).float().sigmoid().squeeze(2) for level in outputs.iou
            ]
        if self.sigma:
            columns["sigma"] = [
                deviation(flatten_levels((level,), 4).float()) * coder.side_units(grid)
                for level, grid in zip(outputs.sigma, priors.split(), strict=True)
            ]
        if self.density is not None:
            columns["density"] = level_densities(outputs.density)
        return columns

    def rate(
        self, scores: Sequence[Tensor], columns: Mapping[str, Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """Class probabilities (B, P, C) of each level, in which a predicted IoU has its share."""
        return scores if self.iou is None else self.iou.rate(scores, columns["iou"])


class DenseHead(Protocol):
    """num_classes: without background; estimates: what is predicted beside class and box."""

    num_classes: int
    estimates: Estimates

    def __call__(self, x: Tensor, level: int) -> tuple[Tensor | None, ...]:
        """Class logits, boxes, centre-ness, IoU, sigma and density, as in `DenseOutputs`, of a
        level (B, D, h, w); None where it is not predicted."""
        ...


class EstimatingHead(Protocol):
    """A head with the layers of `Estimates.layers`."""

    iou: Conv2d | None
    sigma: Conv2d | None
    density: DensityNet | None


def estimate_level(
    head: EstimatingHead, x: Tensor, box_features: Tensor, class_logits: Tensor, boxes: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """IoU, sigma and density, as in `DenseOutputs`, that the head estimates on a map (B, D, h, w)
    with these features of its box tower, from class logits (B, A * C, h, w) and boxes
    (B, A * 4, h, w) before any activation; None for one that is not predicted."""
    density = None
    if head.density is not None:
        anchors, (num_images, channels, height, width) = boxes.shape[1] // 4, class_logits.shape
        by_class = class_logits.reshape(num_images, anchors, channels // anchors, height, width)
        objectness = by_class.amax(dim=2)
        density = head.density(x, objectness, boxes)
    iou = None if head.iou is None else head.iou(box_features)
    sigma = None if head.sigma is None else head.sigma(box_features)
    return iou, sigma, density


def stack_levels(levels: Sequence[tuple[Tensor | None, ...]]) -> list[tuple[Tensor, ...]]:
    """For each output of a head its maps of all levels, () for one that is None."""
    outputs = zip(*levels, strict=True)
    return [tuple(level for level in maps if level is not None) for maps in outputs]


def build_estimates(
    options: Atss | Fcos | NasFcos | RetinaNet, *, centerness: CenternessBranch | None
) -> Estimates:
    """What a model section asks for beside centre-ness; the box loss "kl" teaches variances."""
    iou, density = options.iou_branch, options.density_branch
    return Estimates(
        centerness,
        iou=IoUBranch(iou.weight, iou.alpha) if iou else None,
        sigma=options.box_loss.name == KL,
        density=DensityBranch(density.weight) if density else None,
    )
