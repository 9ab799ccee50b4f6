"""Numbers that every rank of a distributed run must agree on."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def all_rank_mean(value: Tensor, *, at_least: float | None = None) -> Tensor:
    """The mean of `value` over all ranks, of any shape; `value` itself in a single process.

    Used for loss normalisers: gradients are averaged over ranks, so dividing by the mean count
    gives the gradient of the joint batch. at_least: what the sum over all ranks is lifted to, and
    not each rank's share of it (references mostly lift the mean).
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value if at_least is None else value.clamp(min=at_least)
    total = value.detach().clone()
    dist.all_reduce(total)
    if at_least is not None:
        total = total.clamp(min=at_least)
    return total / dist.get_world_size()
