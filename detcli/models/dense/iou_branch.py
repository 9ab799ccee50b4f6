"""A predicted IoU beside each predicted box (Wu et al. 2020, arXiv 1912.05992; PP-YOLO).

Letters: B images, P priors of one level, C classes, M positives of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from detcli.models.dense.matching import Matches
from detcli.models.dense.terms import predicted_iou
from detcli.models.dense.tower import flatten_levels
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors


@dataclass(frozen=True)
class IoUBranch:
    """What the predicted IoU is trained with, and what it does to the scores.

    weight: factor of the loss; alpha: the score becomes class probability^(1 - alpha) x IoU^alpha,
    before candidates are selected. That is PP-YOLO's alpha; the paper's is at the class
    probability, and 1/2 for RetinaNet. 0 leaves the scores alone.
    """

    weight: float
    alpha: float

    def loss(
        self,
        maps: tuple[Tensor, ...],
        coder: BoxCoder,
        encoded: Tensor,
        matches: Matches,
        priors: Priors,
    ) -> Tensor:
        """Binary cross entropy, summed over the positives, of the IoU logits, maps (B, A, h, w),
        against the IoU of their boxes, encoded (M, 4), with their objects, which is a constant
        for the gradient."""
        logits = flatten_levels(maps, 1).flatten()[matches.positive].float()
        wanted = predicted_iou(coder, encoded, matches.boxes, priors)
        total = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        return self.weight * total

    def rate(self, scores: Sequence[Tensor], ious: Sequence[Tensor]) -> list[Tensor]:
        """Class probabilities (B, P, C) of each level, lowered and lifted by the IoUs (B, P)."""
        if self.alpha == 0:
            return list(scores)
        return [
            level.pow(1 - self.alpha) * iou.pow(self.alpha)[:, :, None]
            for level, iou in zip(scores, ious, strict=True)
        ]
