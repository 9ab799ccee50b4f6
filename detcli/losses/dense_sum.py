"""The sum of a classification loss over all priors of a batch, and its gradient, in one pass.

Letters: M samples, m samples of a block, K samples with an object, C classes; label C is
background.

Nearly all samples are background, and their loss has one form in all losses here. Those rows are
worked on in blocks with a gradient in closed form; the few rows with an object are left to
autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries worked on at a time: on a CPU the intermediate results stay in its cache, elsewhere a
# block is large enough to fill the device. Nothing of this size is kept beside the gradient.
CPU_BLOCK = 1 << 16
DEVICE_BLOCK = 1 << 24
MAX_EXPONENT = 40.0  # above, softplus(x) is x also in float64

# (logits (K, C), labels (K,), quality (K,) or None) -> (K, C) the loss of each entry
ObjectTerms: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class DenseSum(torch.autograd.Function):
    """Sum of scale p^gamma softplus(x), p = sigmoid(x), over the rows of background, and of
    `object_terms` over the rows with an object; each row times its weight, all times a factor.

    The factor comes in with the rest, since to multiply the whole gradient by it later would take
    an eighth of the time again."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        quality: Tensor | None,
        weights: Tensor | None,
        factor: Tensor,
        scale: float,
        gamma: float,
        object_terms: ObjectTerms,
    ) -> Tensor:
        """A scalar in float32 (float64 for float64): logits (M, C), labels (M,) with negatives for
        rows that do not count, quality (M,) and weights (M,) or None; factor: a scalar."""
        dtype = torch.promote_types(logits.dtype, torch.float32)
        # float32 also for half precision, in which gradients of easy negatives would vanish
        # before a loss scale can lift them
        grad = torch.empty_like(logits, dtype=dtype) if ctx.needs_input_grad[0] else None
        losses = _background_rows(logits, labels, scale * factor, gamma, grad)
        if weights is not None:
            losses.mul_(weights)
            if grad is not None:
                grad.mul_(weights[:, None])
        rows = _object_rows(logits, labels)
        with torch.enable_grad():
            x = logits[rows].to(dtype).requires_grad_()
            each = object_terms(x, labels[rows], None if quality is None else quality[rows])
            objects = factor * (each if weights is None else each * weights[rows, None]).sum()
        if grad is not None:
            (grad[rows],) = torch.autograd.grad(objects, x)
        ctx.save_for_backward(grad)
        ctx.logits_dtype = logits.dtype
        return (losses.sum(dtype=torch.float64) + objects.detach()).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the logits."""
        (grad,) = ctx.saved_tensors
        if grad_total.device.type != "cpu" or grad_total != 1:  # elsewhere to look takes longer
            grad = grad * grad_total
        return grad.to(ctx.logits_dtype), *[None] * 7


@torch.no_grad()
def row_losses(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor | None,
    scale: float,
    gamma: float,
    object_terms: ObjectTerms,
) -> Tensor:
    """(M,) what each row adds to the unweighted `DenseSum`, without a gradient; 0 for rows that do
    not count."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    losses = _background_rows(logits, labels, logits.new_tensor(scale, dtype=dtype), gamma, None)
    rows = _object_rows(logits, labels)
    rated = None if quality is None else quality[rows]
    losses[rows] = object_terms(logits[rows].to(dtype), labels[rows], rated).sum(dim=1)
    return losses


def _background_rows(
    logits: Tensor, labels: Tensor, scale: Tensor, gamma: float, slope: Tensor | None
) -> Tensor:
    """(M,) sum over the classes of scale p^gamma softplus(x) in rows of background, 0 in all
    others; the derivative (M, C), 0 in all others too, is written into slope if given."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    losses = logits.new_empty(len(logits), dtype=dtype)
    for part in _blocks(logits):
        into = None if slope is None else slope[part]
        losses[part] = background_terms(logits[part].to(dtype), scale, gamma, into).sum(dim=1)
    others = (labels != logits.shape[1]).nonzero().squeeze(1)
    losses[others] = 0
    if slope is not None:
        slope[others] = 0
    return losses


def background_terms(x: Tensor, scale: Tensor, gamma: float, slope: Tensor | None) -> Tensor:
    """scale p^gamma softplus(x), p = sigmoid(x); its derivative scale p^gamma (gamma (1 - p)
    softplus(x) + p) is written into slope if given.

    softplus(x) = log(1 + e^x), which is x where e^x would overflow.
    """
    e = x.clamp(max=MAX_EXPONENT).exp_()
    surprise = torch.log1p(e)
    torch.maximum(surprise, x, out=surprise)
    p = e.div_(e + 1)
    focus = (p.square() if gamma == 2 else p.pow(gamma)).mul_(scale)
    if slope is not None:
        torch.addcmul(surprise, surprise, p, value=-1, out=slope)  # (1 - p) softplus(x)
        torch.add(p, slope, alpha=gamma, out=slope).mul_(focus)
    return surprise.mul_(focus)


def _blocks(logits: Tensor) -> list[slice]:
    size = CPU_BLOCK if logits.device.type == "cpu" else DEVICE_BLOCK
    rows = max(1, size // max(1, logits.shape[1]))
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


def _object_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """(K,) int64 rows whose label is a class."""
    return ((labels >= 0) & (labels < logits.shape[1])).nonzero().squeeze(1)
