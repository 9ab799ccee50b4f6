"""The loss of set predictors (DETR): every decoder layer is matched and judged by itself.

Letters: L layers, B images, Q queries, C classes, K outputs of the classifier, M pairs of query
and object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from detcli.assign.hungarian import HungarianAssigner, Pairs, Wanted, build_hungarian, wanted_of
from detcli.losses import BoxLoss, ClassLoss, SoftmaxLoss, build_box_loss, build_class_loss
from detcli.ops.boxes import boxes_from_shares
from detcli.ops.reduce import all_rank_mean
from detcli.phases import phase
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.deformable_detr import DeformableDetr
    from detcli.recipe.sections.models.detr import Detr

IGNORED = -1  # label of a query that counts neither way


class SetOutputs(NamedTuple):
    """Raw predictions of each decoder layer, the last one last.

    class_logits (B, Q, K), with a soft-max no-object last; boxes (B, Q, 4): centre x, y, width and
    height in shares of the image; proposals: in two stages, class logits (B, N, C) and boxes
    (B, N, 4) of the N cells of the encoder's maps, otherwise empty; sizes: (height, width) of the
    images in pixels, which boxes are shares of.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    proposals: tuple[Tensor, ...]
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SetCriterion:
    """Losses of queries that are matched to objects.

    A query without an object is background; one whose centre lies in an ignored region counts
    neither way. no_object_weight: of background in the weighted mean that a soft-max loss is; None:
    the class loss is a sum divided by the number of objects, as the losses of boxes always are.
    small_box_factor: weight of a box in box_loss is this x (2 - width x height), in shares.
    """

    assigner: HungarianAssigner
    class_loss: ClassLoss | SoftmaxLoss
    no_object_weight: float | None
    l1_weight: float
    box_loss: BoxLoss
    small_box_factor: float | None

    def __call__(
        self,
        logits: Tensor,
        shares: Tensor,
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        """Terms "class", "l1" and "box", float32 with their weights, (L,) for each layer one.

        logits (L, B, Q, K); shares (L, B, Q, 4): centre x, y, width and height in shares of images
        of `sizes` (height, width).
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, shares = logits.float(), shares.float()
            wanted = [wanted_of(target, size) for target, size in zip(targets, sizes, strict=True)]
            with phase("assignment"):
                pairs = self.assigner(logits, shares, wanted)
            count = logits.new_tensor(float(sum(len(target.labels) for target in targets)))
            objects = all_rank_mean(count, at_least=1)
            labels = self.labels(logits, shares, pairs, wanted, targets)
            return {
                "class": self.class_terms(logits, labels, objects),
                **self.box_terms(shares, pairs, wanted, objects),
            }

    def losses(self, outputs: SetOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "l1" and "box" of the last decoder layer, with a number of those before
        it, and with "_encoder" of the proposals, for which all objects are of one class; float32
        scalars with their weights."""
        logits, boxes = torch.stack(outputs.class_logits), torch.stack(outputs.boxes)
        losses = by_layer(self(logits, boxes, targets, outputs.sizes))
        if outputs.proposals:
            logits, boxes = (maps[None] for maps in outputs.proposals)
            of_one_class = [
                replace(target, labels=torch.zeros_like(target.labels)) for target in targets
            ]
            terms = self(logits, boxes, of_one_class, outputs.sizes)
            losses |= {f"{name}_encoder": value[0] for name, value in terms.items()}
        return losses

    @torch.no_grad()
    def matched_queries(self, outputs: SetOutputs, targets: Sequence[Target]) -> list[Tensor]:
        """The query (N,) int64 of each object of each image in the last layer, -1 for an object
        without."""
        sized = zip(targets, outputs.sizes, strict=True)
        wanted = [wanted_of(target, size) for target, size in sized]
        pairs = self.assigner(outputs.class_logits[-1][None], outputs.boxes[-1][None], wanted)
        counts = [len(one.labels) for one in wanted]
        queries = pairs.query.new_full((sum(counts),), -1)
        queries[pairs.object[0]] = pairs.query[0]
        return list(torch.split(queries, counts))

    def labels(
        self,
        logits: Tensor,
        shares: Tensor,
        pairs: Pairs,
        wanted: Sequence[Wanted],
        targets: Sequence[Target],
    ) -> Tensor:
        """(L, B, Q) the class of each query, C for background, IGNORED."""
        background = logits.shape[-1] - self.class_loss.num_background
        labels = pairs.query.new_full(logits.shape[:3], background)
        for image, target in enumerate(targets):
            if len(target.ignore_boxes):
                centers = shares[:, image, :, None, :2] * wanted[image].sides  # (L, Q, 1, 2)
                low, high = target.ignore_boxes[:, :2], target.ignore_boxes[:, 2:]
                inside = ((centers > low) & (centers < high)).all(dim=-1).any(dim=-1)  # (L, Q)
                labels[:, image].masked_fill_(inside, IGNORED)
        layer = torch.arange(len(labels), device=labels.device)[:, None]
        of_objects = torch.cat([one.labels for one in wanted])
        labels[layer, pairs.image, pairs.query] = of_objects[pairs.object]
        return labels

    def class_terms(self, logits: Tensor, labels: Tensor, objects: Tensor) -> Tensor:
        """(L,) class losses of logits (L, B, Q, K) with labels (L, B, Q)."""
        if self.no_object_weight is None:
            sums = [
                self.class_loss(layer.flatten(0, 1), wanted.flatten())
                for layer, wanted in zip(logits, labels, strict=True)
            ]
            return torch.stack(sums) / objects
        background = logits.shape[-1] - 1
        weights = torch.where(labels == background, self.no_object_weight, 1.0)
        weights = weights.masked_fill(labels == IGNORED, 0.0)
        sums = [
            self.class_loss(layer.flatten(0, 1), wanted.flatten(), None, weight.flatten())
            for layer, wanted, weight in zip(logits, labels, weights, strict=True)
        ]
        total = all_rank_mean(weights.sum(dim=(1, 2)), at_least=self.no_object_weight)
        return torch.stack(sums) / total

    def box_terms(
        self, shares: Tensor, pairs: Pairs, wanted: Sequence[Wanted], objects: Tensor
    ) -> dict[str, Tensor]:
        """ "l1" and "box", (L,) each, of the shares (L, B, Q, 4) that have an object."""
        layer = torch.arange(len(shares), device=shares.device)[:, None]
        predicted = shares[layer, pairs.image, pairs.query]  # (L, M, 4)
        true = torch.cat([one.shares for one in wanted])[pairs.object]
        sides = torch.stack([one.sides for one in wanted])[pairs.image]  # (M, 2)
        weights: Sequence[Tensor | None] = [None] * len(shares)
        if self.small_box_factor is not None:
            weights = list(self.small_box_factor * (2 - true[..., 2] * true[..., 3]))
        boxes = boxes_from_shares(predicted, sides)
        true_boxes = torch.cat([one.boxes for one in wanted])[pairs.object]
        overlap = [
            self.box_loss(one, other, weight)
            for one, other, weight in zip(boxes, true_boxes, weights, strict=True)
        ]
        return {
            "l1": self.l1_weight * (predicted - true).abs().sum(dim=(1, 2)) / objects,
            "box": torch.stack(overlap) / objects,
        }


def build_set_criterion(options: Detr | DeformableDetr) -> SetCriterion:
    """The criterion of a model section."""
    class_loss, box_loss = options.class_loss, options.box_loss
    return SetCriterion(
        build_hungarian(options.assigner, class_costs=class_loss.name),
        build_class_loss(class_loss),
        class_loss.no_object_weight if class_loss.name == "softmax" else None,
        options.l1_weight,
        build_box_loss(box_loss),
        box_loss.small_box_factor,
    )


def by_layer(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One scalar for each term (L,) and layer: of the last layer under the term's own name, of
    layer 1, 2, ... before it as "class_1", "class_2", ..."""
    layers = len(next(iter(terms.values())))
    return {
        name if layer == layers - 1 else f"{name}_{layer + 1}": values[layer]
        for layer in reversed(range(layers))
        for name, values in terms.items()
    }
