"""Focal loss of heat maps (CornerNet, Law and Deng, arXiv 1808.01244, equation 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from detcli.types import check_shape


@dataclass(frozen=True)
class GaussianFocal:
    """(1 - p)^alpha -log(p) at peaks, (1 - y)^beta p^alpha -log(1 - p) elsewhere, p a probability
    and y what the heat map should be.

    min_probability: p is held between this and one minus this, and has no slope beyond; 0: it is
    not held. weight: factor of the sum.
    """

    alpha: float
    beta: float
    min_probability: float
    weight: float

    def __call__(self, logits: Tensor, targets: Tensor, ignored: Tensor) -> Tensor:
        """Weighted sum, a float32 scalar; finite for all finite logits.

        logits of p and targets y (B, C, h, w), y from 0 to 1, which makes a peak; ignored
        (B, h, w) bool: cells that do not count where they are no peak. Raises ValueError on other
        shapes.
        """
        check_shape("targets", targets, *logits.shape)
        check_shape("ignored", ignored, logits.shape[0], *logits.shape[2:])
        x = logits.float()
        if self.min_probability > 0:
            limit = math.log((1 - self.min_probability) / self.min_probability)
            x = x.clamp(-limit, limit)
        peak = x[targets == 1]
        objects = (-peak).sigmoid().pow(self.alpha) * F.softplus(-peak)
        share = (1 - targets).pow(self.beta).masked_fill_(ignored[:, None], 0.0)
        background = share * x.sigmoid().pow(self.alpha) * F.softplus(x)
        return (objects.sum() + background.sum()) * self.weight
