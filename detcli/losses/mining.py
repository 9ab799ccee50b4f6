"""Online hard example mining (OHEM, Shrivastava et al. 2016): weights of samples from their losses.

Letters: B images, P samples of one image, C classes; label C is background, negative labels do
not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detcli.types import check_shape


@dataclass(frozen=True)
class HardestNegatives:
    """Drops easy background (SSD, Liu et al. 2016, "hard negative mining").

    negatives_per_object: how many samples of background count in each image for every sample
    with an object, those with the highest losses. background_images: an image without objects
    keeps as many as one with a single sample; otherwise none, as in SSD.
    """

    negatives_per_object: float
    background_images: bool

    def __call__(self, losses: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Weights (B, P), 0 or 1, from losses (B, P) and labels (B, P) int64.

        Equal losses: the earlier sample counts as harder.
        """
        check_shape("labels", labels, *losses.shape)
        is_negative = labels == num_classes
        is_object = (labels >= 0) & ~is_negative
        number = is_object.sum(dim=1, keepdim=True).clamp(min=int(self.background_images))
        limit = number * self.negatives_per_object
        rank = _ranks(losses, is_negative)
        return (is_object | (is_negative & (rank < limit))).to(losses.dtype)


@dataclass(frozen=True)
class RankWeights:
    """Weights every sample by the rank of its loss in its image: (1 + power) (1 - r)^power, where
    r goes from 0 for the hardest to 1 for the easiest.

    The importance of a rank is that of prime sample attention (Cao et al. 2020) without its
    offset; the factor keeps the mean weight at 1. power > 0: how much the hardest stand out.
    """

    power: float

    def __call__(self, losses: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Weights (B, P) from losses (B, P) and labels (B, P) int64; 0 for samples that do not
        count.

        Equal losses: the earlier sample counts as harder.
        """
        check_shape("labels", labels, *losses.shape)
        counts = labels >= 0
        number = counts.sum(dim=1, keepdim=True).clamp(min=1)
        ease = (_ranks(losses, counts) + 0.5) / number
        weights = (1 - ease).clamp(min=0).pow(self.power) * (1 + self.power)
        return weights.where(counts, 0.0).to(losses.dtype)


def _ranks(losses: Tensor, among: Tensor) -> Tensor:
    """(B, P) int64 place of each loss in its row, 0 for the highest, where `among` (B, P) bool;
    all others come later."""
    order = losses.where(among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(losses.shape[1], device=losses.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
