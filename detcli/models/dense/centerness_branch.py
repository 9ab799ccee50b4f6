"""A predicted centre-ness beside each box: how close its prior is to the middle of the object
(FCOS, Tian et al. 2019, arXiv 1904.01355).

Letters: B images, P priors of a level, C classes, M positives of the batch; h, w cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from detcli.losses import centerness_loss, centerness_target
from detcli.models.dense.matching import Matches
from detcli.models.dense.tower import flatten_levels
from detcli.ops.coders import side_distances
from detcli.ops.priors import Priors


@dataclass(frozen=True)
class CenternessBranch:
    """How centre-ness is learned, and what it does to box losses and scores.

    weight: factor of the loss; min_sum: the box term is weighted by the targets and divided by
    their sum, at least this; score "product": candidates are selected by class probability, which
    the centre-ness then multiplies; "sqrt_product": selected by the root of that product.
    """

    weight: float
    min_sum: float
    score: str = "product"

    def targets(self, priors: Priors, boxes: Tensor) -> Tensor:
        """(M,) from 0 to 1 of the priors (M) in boxes (M, 4)."""
        return centerness_target(side_distances(priors.centers, boxes))

    def loss(self, maps: tuple[Tensor, ...], wanted: Tensor, matches: Matches) -> Tensor:
        """Binary cross entropy, summed over the positives, of logits, maps (B, 1, h, w)."""
        predicted = flatten_levels(maps, 1).flatten()[matches.positive]
        return self.weight * centerness_loss(predicted, wanted)

    def rate(
        self, scores: Sequence[Tensor], maps: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], list[Tensor] | None]:
        """Scores (B, P, C) of each level that select candidates, and factors (B, P) of the scores
        of those that are selected."""
        centerness = [level.float().sigmoid().flatten(1) for level in maps]
        if self.score == "product":
            return scores, centerness
        pairs = zip(scores, centerness, strict=True)
        return [(level * factor[:, :, None]).sqrt() for level, factor in pairs], None
