"""Numbers that every rank of a distributed run must agree on."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def all_rank_mean(value: Tensor) -> Tensor:
    """The mean of `value` over all ranks, of any shape; `value` itself in a single process.

    Used for loss normalisers: gradients are averaged over ranks, so dividing by the mean count
    gives the gradient of the joint batch.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
