"""Which images make up which batch: pure functions of seed, epoch and world size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from detcli.types import BoolArray, IntArray


def training_plan(
    wide: BoolArray | None, count: int, *, seed: int, epoch: int, batch: int, world_size: int
) -> list[IntArray]:
    """The batches of one epoch over all ranks, shuffled; rank r takes r, r + world_size, ...

    Every image occurs; so that every rank has the same number of full batches, up to
    batch * world_size - 1 images from the start of the permutation occur once more (more often
    if the data set is smaller than that). wide (I,) bool: keep wide and tall images apart where
    they fill a batch, which saves padding; None to mix them.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(count)
    groups = [order] if wide is None else [order[wide[order]], order[~wide[order]]]
    batches: list[IntArray] = []
    rest: list[IntArray] = []
    for group in groups:
        full = len(group) // batch * batch
        batches += np.split(group[:full], full // batch) if full else []
        rest.append(group[full:])
    left = np.concatenate(rest)
    step = batch * world_size
    padded = -(-count // step) * step
    left = np.concatenate([left, np.resize(order, padded - count)])
    batches += np.split(left, len(left) // batch) if len(left) else []
    return [batches[i] for i in rng.permutation(len(batches))]


def evaluation_plan(count: int, *, batch: int, rank: int, world_size: int) -> list[IntArray]:
    """The batches of one rank: consecutive images, each exactly once over all ranks.

    Shares differ by at most one image, so the number of batches may differ between ranks.
    """
    bounds = np.arange(world_size + 1) * count // world_size
    share = np.arange(bounds[rank], bounds[rank + 1])
    return [share[i : i + batch] for i in range(0, len(share), batch)]
