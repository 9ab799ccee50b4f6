"""Multiplicative noise on features (arXiv 1801.05134; Srivastava et al. 2014)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUTS = ("bernoulli", "gaussian", "uniform")


class Dropout(nn.Module):
    """Multiply every value by noise of mean 1 in training; the identity in evaluation.

    bernoulli: 0 with probability `rate`, otherwise 1 / (1 - rate). gaussian: normal, with the
    variance of the former, rate / (1 - rate). uniform ("Uout"): between 1 - beta and 1 + beta,
    of variance beta^2 / 3. The larger the variance, the more the variance of the features shifts
    from training to evaluation, which a batch norm further on would not know of.
    """

    def __init__(self, name: str, *, rate: float, beta: float) -> None:
        super().__init__()
        if name not in DROPOUTS:
            raise ValueError(f"dropout: expected {', '.join(DROPOUTS)}, got {name}")
        self.name = name
        self.rate = rate
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        if not self.training:
            return x
        if self.name == "bernoulli":
            return F.dropout(x, self.rate)
        noise = torch.empty_like(x, dtype=torch.float32)  # coarse, and so biased, in bfloat16
        if self.name == "gaussian":
            noise.normal_(1.0, math.sqrt(self.rate / (1 - self.rate)))
        else:
            noise.uniform_(1 - self.beta, 1 + self.beta)
        return (x * noise).to(x.dtype)
