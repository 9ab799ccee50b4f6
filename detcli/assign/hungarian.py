"""One query for each object: the cheapest of all ways to pair them (DETR, arXiv 2005.12872).

Letters: L decoder layers, B images, Q queries, C classes, K outputs of a classifier (C, or C + 1
with no-object), N objects of an image, M pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detcli.errors import DivergedError
from detcli.ops.boxes import boxes_from_shares, pairwise_giou, shares_from_boxes
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models.detr import HungarianAssigner as HungarianSection

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # of the cost, whatever those of the loss are
MIN_PROBABILITY = 1e-8
COST_TERMS = ("class", "l1", "giou")


class Wanted(NamedTuple):
    """The objects of an image.

    labels (N,) int64; boxes (N, 4) xyxy pixels; shares (N, 4): centre x, y, width and height in
    fractions of the image; sides (2,): width and height of the image in pixels.
    """

    labels: Tensor
    boxes: Tensor
    shares: Tensor
    sides: Tensor


class Pairs(NamedTuple):
    """Which query learns which object, by image and, within a layer, by query.

    image (M,), query (L, M), object (L, M): int64; object counts through the whole batch.
    """

    image: Tensor
    query: Tensor
    object: Tensor


def wanted_of(target: Target, size: tuple[int, int]) -> Wanted:
    """What a target says about an image of `size` (height, width)."""
    sides = target.boxes.new_tensor([size[1], size[0]])
    shares = shares_from_boxes(target.boxes, sides)
    return Wanted(target.labels, target.boxes, shares, sides)


def softmax_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """(L, Q, N) minus the probabilities of the labels (N,); logits (L, Q, C + 1)."""
    return -logits.softmax(dim=-1)[..., labels]


def focal_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """(L, Q, N) the focal loss of the entries of labels (N,) as an object's less that as
    background; logits (L, Q, C) (Deformable DETR, arXiv 2010.04159)."""
    p = logits[..., labels].sigmoid()
    positive = FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * -(p + MIN_PROBABILITY).log()
    negative = (1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * -(1 - p + MIN_PROBABILITY).log()
    return positive - negative


CLASS_COSTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmax": softmax_cost,
    "focal": focal_cost,
}


@dataclass(frozen=True)
class HungarianAssigner:
    """Costs are weighted sums of `class_costs`, the L1 distance of the shares and the negative
    generalised IoU, in float32; each layer is matched by itself."""

    class_costs: Callable[[Tensor, Tensor], Tensor]
    class_cost: float
    l1_cost: float
    giou_cost: float

    @torch.no_grad()
    def __call__(self, logits: Tensor, shares: Tensor, wanted: Sequence[Wanted]) -> Pairs:
        """The cheapest pairs; logits (L, B, Q, K), shares (L, B, Q, 4).

        Where an image has more objects than queries, some objects have none. Raises DivergedError
        where a cost is not finite.
        """
        logits, shares = logits.float(), shares.float()
        per_image = [
            self.terms(logits[:, image], shares[:, image], objects)
            for image, objects in enumerate(wanted)
        ]
        sums = [terms.sum(dim=0) for terms in per_image]  # (L, Q, N) each
        on_host = torch.cat([cost.flatten() for cost in sums]).cpu()  # one transfer for all
        if not on_host.isfinite().all():
            raise DivergedError(_broken(per_image))
        costs = [
            part.view(cost.shape).numpy()
            for part, cost in zip(
                torch.split(on_host, [c.numel() for c in sums]), sums, strict=True
            )
        ]
        image, query, found = _match(costs)
        return Pairs(image.to(logits.device), query.to(logits.device), found.to(logits.device))

    def terms(self, logits: Tensor, shares: Tensor, wanted: Wanted) -> Tensor:
        """The parts (3, L, Q, N) of the costs in one image, in the order of COST_TERMS; logits
        (L, Q, K), shares (L, Q, 4)."""
        boxes = boxes_from_shares(shares, wanted.sides)
        giou = pairwise_giou(boxes.flatten(0, 1), wanted.boxes).view(*shares.shape[:2], -1)
        distance = torch.cdist(shares, wanted.shares.expand(len(shares), -1, -1), p=1)
        classes = self.class_costs(logits, wanted.labels)
        return torch.stack(
            [self.class_cost * classes, self.l1_cost * distance, -self.giou_cost * giou]
        )


def build_hungarian(options: HungarianSection, *, class_costs: str) -> HungarianAssigner:
    """The assigner of this section of a recipe for class scores of a kind, a key of CLASS_COSTS."""
    return HungarianAssigner(
        CLASS_COSTS[class_costs], options.class_cost, options.l1_cost, options.giou_cost
    )


def _match(costs: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor, Tensor]:
    """The columns of `Pairs` for costs (L, Q, N) of each image."""
    from scipy.optimize import linear_sum_assignment  # a third of a second that few runs need

    images, queries, objects = [], [], []
    first = 0  # object of the image, in the batch
    for image, of_layers in enumerate(costs):
        pairs = np.stack([linear_sum_assignment(cost) for cost in of_layers])  # (L, 2, pairs)
        images.append(np.full(pairs.shape[2], image))
        queries.append(pairs[:, 0])
        objects.append(pairs[:, 1] + first)
        first += of_layers.shape[2]
    return (
        torch.from_numpy(np.concatenate(images)),
        torch.from_numpy(np.concatenate(queries, axis=1)),
        torch.from_numpy(np.concatenate(objects, axis=1)),
    )


def _broken(per_image: Sequence[Tensor]) -> str:
    """Names the first image with terms (3, L, Q, N) that are not finite, and these."""
    for image, terms in enumerate(per_image):
        bad = ~terms.isfinite()
        if bad.any():
            names = [name for name, one in zip(COST_TERMS, bad, strict=True) if one.any()]
            layers = bad.any(dim=0).flatten(1).any(dim=1).nonzero().flatten() + 1
            return (
                f"cost of matching ({', '.join(names)}) is not finite in image {image} of the "
                f"batch, decoder layer {', '.join(map(str, layers.tolist()))}"
            )
    return "sum of the costs of matching is not finite"
