"""Multiplicative noise on features (arXiv 1801.05134; Srivastava et al. 2014)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUTS = ("bernoulli", "gaussian", "uniform")
CHANCES = 2**16  # of which a share is that of a zero, on a processor


def drop(x: Tensor, rate: float, *, training: bool) -> Tensor:
    """As `F.dropout`: in training each value is 0 with probability `rate`, below 1, and otherwise
    divided by 1 - rate; the identity in evaluation. Any shape to the same shape.

    On a processor the random numbers of `F.dropout` take longer than a linear layer before it.
    There 16 random bits decide over a value, so that the rate is the nearest multiple of 1 / 65536.
    """
    if not training or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate, training)
    zeros = round(rate * CHANCES)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    chances = words.view(torch.int16)[: x.numel()].view(x.shape)  # from -CHANCES / 2 on
    noise = (chances >= zeros - CHANCES // 2).float().mul_(CHANCES / (CHANCES - zeros))
    return (x * noise).to(x.dtype)


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
            return drop(x, self.rate, training=True)
        noise = torch.empty_like(x, dtype=torch.float32)  # coarse, and so biased, in bfloat16
        if self.name == "gaussian":
            noise.normal_(1.0, math.sqrt(self.rate / (1 - self.rate)))
        else:
            noise.uniform_(1 - self.beta, 1 + self.beta)
        return (x * noise).to(x.dtype)
