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

from detcli.models.dense.auxiliary import Auxiliary
from detcli.models.dense.decode import Selection, class_probabilities, decode_batch
from detcli.models.dense.estimates import Estimates, build_estimates, estimate_level, stack_levels
from detcli.models.dense.loss import dense_loss
from detcli.models.dense.matching import Matches, positives_of_each_image
from detcli.models.dense.prior_grid import PriorGrid, build_anchors
from detcli.models.dense.terms import Criterion, box_quality, box_term, build_criterion, class_term
from detcli.models.dense.tower import Branches, flatten_levels
from detcli.models.detector import Detector
from detcli.models.pyramid import build_pyramid
from detcli.ops.coders import BoxCoder, DeltaCoder, DistanceCoder
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target


class RetinaNetOutputs(NamedTuple):
    """Raw predictions, one entry per level, channels anchor-major.

    class_logits (B, A * C, h, w); boxes (B, A * 4, h, w): deltas, or with regression "point"
    distances in strides; iou, sigma and density: see `EstimateMaps`; auxiliary: the outputs of the
    auxiliary head, in training and where there is one; canvas: (height, width) of the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    iou: tuple[Tensor, ...]
    sigma: tuple[Tensor, ...]
    density: tuple[Tensor, ...]
    auxiliary: tuple[RetinaNetOutputs, ...]
    canvas: tuple[int, int]


class RetinaNetHead(nn.Module):
    """Two towers, shared by all levels; each ends in one prediction per anchor, beside which there
    may be `estimates`."""

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        num_anchors: int,
        branches: Branches,
        estimates: Estimates,
        distances: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.distances = distances
        self.class_tower = branches.tower(channels, bias=False)
        self.box_tower = branches.tower(channels, bias=False)
        self.class_logits = branches.class_prediction(channels, num_anchors * num_classes)
        self.box = branches.prediction(channels, num_anchors * 4)
        self.iou, self.sigma, self.density = estimates.layers(branches, channels, num_anchors)

    def forward(self, x: Tensor) -> tuple[Tensor | None, ...]:
        """Class logits (B, A * C, h, w), boxes (B, A * 4, h, w) and `LevelEstimates` of one level
        (B, D, h, w)."""
        box_features = self.box_tower(x)
        boxes, logits = self.box(box_features), self.class_logits(self.class_tower(x))
        return (
            logits,
            F.relu(boxes) if self.distances else boxes,
            *estimate_level(self, x, box_features, logits, boxes),
        )


class RetinaNet(Detector):
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
        estimates: Estimates,
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
        self.estimates = estimates
        self.auxiliary = auxiliary

    def forward(
        self, images: Tensor, targets: object = None, sizes: object = None
    ) -> RetinaNetOutputs:
        """Raw predictions for images (B, 3, H, W); targets and sizes are not used."""
        maps = self.neck(self.backbone(images))
        canvas = (images.shape[-2], images.shape[-1])
        outputs = _predict(self.head, maps, canvas)
        if self.auxiliary is None or not self.training:
            return outputs
        return outputs._replace(auxiliary=(_predict(self.auxiliary.head, maps, canvas),))

    def loss(self, outputs: RetinaNetOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "box" and, with those branches, "iou" and "density", float32 scalars with
        their weights; those of the auxiliary head begin with "aux_"."""
        priors = self.anchors(outputs.boxes, outputs.canvas)
        return dense_loss(
            self, outputs, outputs.auxiliary, targets, priors=priors, padding="ignored"
        )

    def head_loss(
        self,
        outputs: RetinaNetOutputs,
        priors: Priors,
        matches: Matches,
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """The terms of one head."""
        encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)[matches.positive].float()
        count = all_rank_mean(positives_of_each_image(matches))
        positive = priors.take(matches.prior_index())
        alpha = self.estimates.alpha(outputs, matches)
        box = box_term(self.criterion, self.coder, encoded, matches, positive, alpha=alpha)
        classes = class_term(
            self.criterion,
            outputs.class_logits,
            matches.labels,
            self.head.num_classes,
            box_quality(self.criterion, self.coder, encoded, matches, positive),
            count,
        )
        more = self.estimates.losses(
            outputs, encoded, matches, targets, coder=self.coder, priors=positive
        )
        others = {name: total / count for name, total in {"box": box, **more}.items()}
        return {"class": classes, **others}

    @torch.no_grad()
    def decode(
        self, outputs: RetinaNetOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are the class probabilities.

        With an IoU branch, scores are class probability^(1 - alpha) x predicted IoU^alpha. What is
        estimated is in the columns `iou`, `sigma` and `density`.
        """
        priors = self.anchors(outputs.boxes, outputs.canvas)
        columns = self.estimates.columns(outputs, self.coder, priors)
        scores = class_probabilities(outputs.class_logits, self.head.num_classes)
        return decode_batch(
            self.estimates.rate(scores, columns),
            outputs.boxes,
            image_sizes,
            priors=priors,
            coder=self.coder,
            selection=self.selection,
            columns=columns,
        )


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
    density_branch: Mapping[str, float] | None,
    auxiliary: Mapping[str, Any] | None,
    enlarge_small: Mapping[str, float] | None,
) -> RetinaNet:
    """RetinaNet from the model section of a recipe."""
    trunk, pyramid = build_pyramid(backbone, neck)
    grid = build_anchors(pyramid.strides, **anchors)
    distances = regression == "point"
    estimates = build_estimates(iou_branch, density_branch, box_loss)
    build_head = partial(
        RetinaNetHead,
        pyramid.out_channels,
        num_classes=num_classes,
        num_anchors=grid.num_anchors,
        distances=distances,
        estimates=estimates,
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
        estimates=estimates,
        auxiliary=Auxiliary(build_head(), **auxiliary) if auxiliary else None,
    )


def _predict(head: nn.Module, maps: Sequence[Tensor], canvas: tuple[int, int]) -> RetinaNetOutputs:
    levels = [head(features) for features in maps]
    logits, boxes, iou, sigma, density = stack_levels(levels)
    return RetinaNetOutputs(logits, boxes, iou, sigma, density, (), canvas)
