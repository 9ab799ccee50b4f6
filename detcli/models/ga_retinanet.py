"""RetinaNet with guided anchoring (arXiv 1901.03278).

Letters: B images, C classes, P cells of one image, M positives of the batch; h, w cells of a
level. One anchor per cell, whose shape is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from detcli.assign import build_assigner
from detcli.models.dense.decode import Selection, class_probabilities, decode_batch
from detcli.models.dense.matching import collect_matches, of_every_row, positives_of_each_image
from detcli.models.dense.terms import Criterion, box_quality, box_term, build_criterion, class_term
from detcli.models.dense.tower import class_prediction, conv_tower, flatten_levels, prediction
from detcli.models.detector import Detector
from detcli.models.pyramid import build_pyramid
from detcli.models.two_stage.guided import (
    FeatureAdaption,
    Guidance,
    assign_guided,
    joined_anchors,
    location_and_shape,
)
from detcli.ops.coders import DeltaCoder
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.ga_retinanet import GaRetinaNet
    from detcli.recipe.sections.network import Head


class GARetinaNetOutputs(NamedTuple):
    """Raw predictions, one entry per level.

    class_logits (B, C, h, w); boxes (B, 4, h, w): deltas from the predicted anchors; shapes
    (B, 2, h, w): logarithms of the anchors' width and height over the level's square; locations
    (B, 1, h, w): logits; canvas: (height, width) of the padded batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    shapes: tuple[Tensor, ...]
    locations: tuple[Tensor, ...]
    canvas: tuple[int, int]


class GARetinaNetHead(nn.Module):
    """Two towers, shared by all levels; the first predicts where anchors are, the second of what
    shape, and both branches are adapted to that shape."""

    def __init__(self, channels: int, options: Head, *, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_tower = conv_tower(options, channels, bias=False)
        self.box_tower = conv_tower(options, channels, bias=False)
        self.location, self.shape = location_and_shape(channels)
        self.class_adaption = FeatureAdaption(channels)
        self.box_adaption = FeatureAdaption(channels)
        self.class_logits = class_prediction(channels, num_classes, implicit=options.implicit)
        self.box = prediction(channels, 4, implicit=options.implicit)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class logits (B, C, h, w), boxes (B, 4, h, w), shapes (B, 2, h, w) and locations
        (B, 1, h, w) of one level (B, D, h, w)."""
        class_features, box_features = self.class_tower(x), self.box_tower(x)
        shape = self.shape(box_features)
        return (
            self.class_logits(self.class_adaption(class_features, shape)),
            self.box(self.box_adaption(box_features, shape)),
            shape,
            self.location(class_features),
        )


class GARetinaNet(Detector):
    """Class and box loss on the predicted anchors, as in RetinaNet, and the losses of `Guidance`
    for their places and shapes.

    Class and box term are divided by the sum over the images of max(1, positives). Anchors whose
    cell lies in the padding of their image take no part.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: GARetinaNetHead,
        *,
        guidance: Guidance,
        criterion: Criterion,
        selection: Selection,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.guidance = guidance
        self.coder = DeltaCoder()
        self.criterion = criterion
        self.selection = selection

    def forward(
        self, images: Tensor, targets: object = None, sizes: object = None
    ) -> GARetinaNetOutputs:
        """Raw predictions for images (B, 3, H, W); targets and sizes are not used."""
        maps = self.neck(self.backbone(images))
        levels = [self.head(features) for features in maps]
        logits, boxes, shapes, locations = zip(*levels, strict=True)
        canvas = (images.shape[-2], images.shape[-1])
        return GARetinaNetOutputs(logits, boxes, shapes, locations, canvas)

    def loss(self, outputs: GARetinaNetOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "box", "location" and "shape", float32 scalars with their weights."""
        targets = of_every_row(targets, outputs.boxes)
        with torch.autocast(outputs.boxes[0].device.type, enabled=False):
            anchors = self.guidance.anchors(outputs.shapes, outputs.canvas)
            losses = self._anchor_terms(outputs, anchors, targets)
            return losses | self.guidance.losses(
                outputs.locations, outputs.shapes, targets, outputs.canvas
            )

    def _anchor_terms(
        self, outputs: GARetinaNetOutputs, anchors: Sequence[Priors], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The terms "class" and "box", with the anchors of each image."""
        matched = assign_guided(self.criterion.assigner, anchors, targets)  # (B, P)
        num_classes = self.head.num_classes
        matches = collect_matches(matched, targets, num_classes=num_classes)
        count = all_rank_mean(positives_of_each_image(matches))
        encoded = flatten_levels(outputs.boxes, 4).flatten(0, 1)[matches.positive].float()
        positive = joined_anchors(anchors).take(matches.positive)
        box = box_term(self.criterion, self.coder, encoded, matches, positive)
        quality = box_quality(self.criterion, self.coder, encoded, matches, positive)
        classes = class_term(
            self.criterion, outputs.class_logits, matches.labels, num_classes, quality, count
        )
        return {"class": classes, "box": box / count}

    @torch.no_grad()
    def decode(
        self, outputs: GARetinaNetOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image, from the cells where an anchor is probable enough; scores are
        the class probabilities."""
        anchors = self.guidance.anchors(outputs.shapes, outputs.canvas)
        threshold = self.guidance.options.location_threshold
        scores = class_probabilities(outputs.class_logits, self.head.num_classes)
        places = class_probabilities(outputs.locations, 1)  # (B, h w, 1) each
        return decode_batch(
            [p.where(there >= threshold, 0.0) for p, there in zip(scores, places, strict=True)],
            outputs.boxes,
            image_sizes,
            priors=anchors,
            coder=self.coder,
            selection=self.selection,
        )


def build_ga_retinanet(options: GaRetinaNet, *, num_classes: int) -> GARetinaNet:
    """RetinaNet with guided anchoring from the model section of a recipe."""
    trunk, pyramid = build_pyramid(options.backbone, options.neck)
    return GARetinaNet(
        trunk,
        pyramid,
        GARetinaNetHead(pyramid.out_channels, options.head, num_classes=num_classes),
        guidance=Guidance(pyramid.strides, options.guidance),
        criterion=build_criterion(options, build_assigner(options.assigner)),
        selection=Selection(options.score_threshold, options.topk_per_level),
    )
