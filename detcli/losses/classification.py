"""Classification losses of dense heads.

Letters: M samples, C classes; label C is background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from detcli.types import check_shape

# Entries worked on at a time: on a CPU the intermediate results stay in its cache, elsewhere a
# block is large enough to fill the device. Nothing of this size is kept beside the gradient.
CPU_BLOCK = 1 << 18
DEVICE_BLOCK = 1 << 24


@dataclass(frozen=True)
class FocalLoss:
    """Sigmoid focal loss (Lin et al. 2017, equation 5): -alpha_t (1 - p_t)^gamma log(p_t), summed.

    alpha: share of the positive entries' weight; gamma >= 0; weight: factor of the sum.
    """

    alpha: float
    gamma: float
    weight: float

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted sum, a float32 scalar (float64 for float64 logits).

        logits (M, C) of any float type; labels (M,) int64 up to C, which is background; rows with
        a negative label do not count. Finite for all finite logits; exact zero that keeps the
        graph for M = 0.
        """
        check_shape("logits", logits, None, None)
        check_shape("labels", labels, len(logits))
        total: Tensor = _FocalSum.apply(logits, labels, self.alpha, self.gamma)
        return total * self.weight


class _FocalSum(torch.autograd.Function):
    """The sum and its gradient in one pass over blocks of rows.

    Entries that are not their row's label are negatives, by far the most: all entries are
    computed as such, then the one entry per row that may be positive is replaced.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        # float32 also for half precision, in which gradients of easy negatives would vanish
        # before a loss scale can lift them
        grad = torch.empty_like(logits, dtype=dtype) if ctx.needs_input_grad[0] else None
        size = CPU_BLOCK if logits.device.type == "cpu" else DEVICE_BLOCK
        rows = max(1, size // max(1, logits.shape[1]))
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            out = None if grad is None else grad[part]
            total += _focal_block(logits[part].to(dtype), labels[part], alpha, gamma, out)
        ctx.save_for_backward(grad)
        ctx.logits_dtype = logits.dtype
        return total.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return (grad * grad_total).to(ctx.logits_dtype), None, None, None


def _focal_block(
    x: Tensor, labels: Tensor, alpha: float, gamma: float, grad: Tensor | None
) -> Tensor:
    """Sum over x (m, C) with labels (m,); writes the gradient into grad (m, C) if given."""
    ignored = labels < 0
    is_positive = (~ignored & (labels < x.shape[1]))[:, None]
    entry = labels.clamp(0, x.shape[1] - 1)[:, None]  # (m, 1)
    loss = _negative_terms(x, gamma, grad).mul_(1 - alpha)
    # a positive is a negative of the opposite logit
    opposite = -x.gather(1, entry)
    slope = torch.empty_like(opposite)
    loss_positive = _negative_terms(opposite, gamma, slope).mul_(alpha)
    loss.scatter_(1, entry, loss_positive.where(is_positive, loss.gather(1, entry)))
    loss[ignored] = 0
    if grad is not None:
        grad.mul_(1 - alpha)
        grad.scatter_(1, entry, slope.mul_(-alpha).where(is_positive, grad.gather(1, entry)))
        grad[ignored] = 0
    return loss.sum()


def _negative_terms(x: Tensor, gamma: float, slope: Tensor | None) -> Tensor:
    """p^gamma softplus(x), p = sigmoid(x); its derivative p^gamma (gamma (1 - p) softplus(x) + p)
    is written into slope if given.

    softplus(x) = -log(1 - p) without its overflow and cancellation.
    """
    surprise = F.softplus(x)
    p = torch.sigmoid(x)
    focus = p.square() if gamma == 2 else p.pow(gamma)
    if slope is not None:
        torch.sub(1, p, out=slope)
        slope.mul_(surprise).mul_(gamma).add_(p).mul_(focus)
    return surprise.mul_(focus)
