"""A detector with one prediction per prior of a pyramid: ATSS, FCOS, RetinaNet and SSD.

Letters: B images, C classes, A priors per cell, D channels of a map, P priors of one image; h, w
cells of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detcli.assign import build_assigner
from detcli.models.dense.auxiliary import Auxiliary, Lead
from detcli.models.dense.decode import Selection, class_probabilities, decode_batch
from detcli.models.dense.estimates import DenseHead, DenseOutputs, stack_levels
from detcli.models.dense.matching import (
    Matches,
    Padding,
    assign_batch,
    collect_matches,
    of_every_row,
)
from detcli.models.dense.terms import Criterion, box_quality, box_term, build_criterion, class_term
from detcli.models.dense.tower import flatten_levels
from detcli.models.detector import Detector
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.models.pyramid import Pyramid, Trunk
    from detcli.recipe.sections.models.atss import Atss
    from detcli.recipe.sections.models.fcos import Fcos
    from detcli.recipe.sections.models.nas_fcos import NasFcos
    from detcli.recipe.sections.models.retinanet import RetinaNet


@dataclass(frozen=True)
class Learning:
    """What is learned, and what the sums of the losses are divided by.

    padding: what becomes of priors there, see `assign_batch`; normaliser: the number that all terms
    are divided by, but for a box term that the centre-ness weights: its mean over the ranks.
    """

    criterion: Criterion
    padding: Padding
    normaliser: Callable[[Matches], Tensor]


class DenseDetector(Detector):
    """Class loss on every prior that takes part; boxes, and what is estimated beside them, on the
    positive ones. priors: the `Priors` of maps and their canvas, as a `PriorGrid` gives them."""

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: DenseHead,
        *,
        priors: nn.Module,
        coder: BoxCoder,
        learning: Learning,
        selection: Selection,
        auxiliary: Auxiliary | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.priors = priors
        self.coder = coder
        self.learning = learning
        self.selection = selection
        self.auxiliary = auxiliary

    def forward(self, images: Tensor, targets: object = None, sizes: object = None) -> DenseOutputs:
        """Raw predictions for images (B, 3, H, W); targets and sizes are not used."""
        maps = self.neck(self.backbone(images))
        canvas = (images.shape[-2], images.shape[-1])
        outputs = _predict(self.head, maps, canvas)
        if self.auxiliary is None or not self.training:
            return outputs
        return outputs._replace(auxiliary=(_predict(self.auxiliary.head, maps, canvas),))

    def loss(self, outputs: DenseOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "box" and, with those branches, "centerness", "iou" and "density", float32
        scalars with their weights; those of the auxiliary head begin with "aux_"."""
        assigner, padding = self.learning.criterion.assigner, self.learning.padding
        priors = self.priors(outputs.boxes, outputs.canvas)
        targets = of_every_row(targets, outputs.boxes)
        with torch.autocast(outputs.boxes[0].device.type, enabled=False):
            fine = assign_batch(assigner, priors, targets, padding=padding)
            losses = self._head_loss(outputs, priors, fine, targets)
            if self.auxiliary is None or not outputs.auxiliary:
                return losses
            lead = Lead(outputs.class_logits, outputs.boxes, self.head.num_classes, self.coder)
            coarse = self.auxiliary.assign(
                assigner, priors, targets, fine=fine, lead=lead, padding=padding
            )
            more = self._head_loss(outputs.auxiliary[0], priors, coarse, targets)
            return losses | self.auxiliary.weighted(more)

    def _head_loss(
        self, outputs: DenseOutputs, priors: Priors, matched: Tensor, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The terms of one head; what its priors learn is in `matched` (B, P), see
        `assign_batch`."""
        criterion, estimates, coder = self.learning.criterion, self.head.estimates, self.coder
        matches = collect_matches(matched, targets, num_classes=self.head.num_classes)
        encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)[matches.positive].float()
        positive = priors.take(matches.prior_index())
        count = box_count = all_rank_mean(self.learning.normaliser(matches), at_least=1)
        weights, more = None, {}
        if estimates.centerness is not None:
            seen = criterion.seen_boxes(matches.boxes)
            weights = estimates.centerness.targets(positive, seen)
            box_count = all_rank_mean(weights.sum(), at_least=estimates.centerness.min_sum)
            more["centerness"] = estimates.centerness.loss(outputs.centerness, weights, matches)
        alpha = estimates.alpha(outputs, matches)
        box = box_term(criterion, coder, encoded, matches, positive, weights, alpha)
        quality = box_quality(criterion, coder, encoded, matches, positive)
        classes = class_term(
            criterion, outputs.class_logits, matches.labels, self.head.num_classes, quality, count
        )
        more |= estimates.losses(outputs, encoded, matches, targets, coder=coder, priors=positive)
        others = {name: total / count for name, total in more.items()}
        return {"class": classes, "box": box / box_count, **others}

    @torch.no_grad()
    def decode(
        self, outputs: DenseOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image; scores are the class probabilities, with centre-ness as
        `CenternessBranch` tells.

        With an IoU branch, class probability^(1 - alpha) x predicted IoU^alpha takes the place of
        the class probability. What is estimated is in the columns `iou`, `sigma` and `density`.
        """
        estimates = self.head.estimates
        priors = self.priors(outputs.boxes, outputs.canvas)
        columns = estimates.columns(outputs, self.coder, priors)
        probabilities = class_probabilities(
            outputs.class_logits,
            self.head.num_classes,
            num_background=self.learning.criterion.class_loss.num_background,
        )
        scores, factors = estimates.rate(probabilities, columns), None
        if estimates.centerness is not None:
            scores, factors = estimates.centerness.rate(scores, outputs.centerness)
        return decode_batch(
            scores,
            outputs.boxes,
            image_sizes,
            priors=priors,
            coder=self.coder,
            selection=self.selection,
            factors=factors,
            columns=columns,
        )


def build_dense(
    options: Atss | Fcos | NasFcos | RetinaNet,
    parts: tuple[Trunk, Pyramid],
    build_head: Callable[[], DenseHead],
    *,
    priors: nn.Module,
    coder: BoxCoder,
    padding: Padding,
    normaliser: Callable[[Matches], Tensor],
) -> DenseDetector:
    """The detector of a model section, from its backbone and neck and what is its own; the
    auxiliary head, where one is asked for, is built like the other one."""
    criterion = build_criterion(options, build_assigner(options.assigner))
    return DenseDetector(
        *parts,
        build_head(),
        priors=priors,
        coder=coder,
        learning=Learning(criterion, padding, normaliser),
        selection=Selection(options.score_threshold, options.topk_per_level),
        auxiliary=Auxiliary(build_head(), options.auxiliary) if options.auxiliary else None,
    )


def _predict(head: DenseHead, maps: Sequence[Tensor], canvas: tuple[int, int]) -> DenseOutputs:
    levels = [head(features, level) for level, features in enumerate(maps)]
    logits, boxes, centerness, iou, sigma, density = stack_levels(levels)
    return DenseOutputs(logits, boxes, centerness, iou, sigma, density, (), canvas)
