"""Averages of the weights, and which weights of a run count: the last ones, or an average."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from detcli.ops.reduce import all_rank_mean


class Ema:
    """Keeps `average = decay x average + (1 - decay) x weights` in float32.

    The decay warms up as decay x (1 - exp(-step / warmup_steps)), so that the first, random
    weights are forgotten. Floating buffers (batch-norm statistics) are averaged too, counters
    are copied.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup_steps: int) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.warmup_steps = warmup_steps

    def decay_at(self, step: int) -> float:
        """The decay of the update that follows optimiser step `step` (from 1)."""
        return self.decay * (1 - math.exp(-step / self.warmup_steps))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 1)."""
        mine, theirs = [], []
        for average, value in zip(
            self.model.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if average.is_floating_point():
                mine.append(average)
                theirs.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(mine, theirs, 1 - self.decay_at(step))


class Swa:
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407): the mean of the weights
    at the ends of the last epochs.

    first_epoch: epochs trained before averaging begins; every: epochs from one averaged model to
    the next. Buffers are those of the model that was taken in last, until `reestimate_norms`.
    """

    def __init__(self, model: nn.Module, *, first_epoch: int, every: int) -> None:
        self.first_epoch = first_epoch
        self.every = every
        self._average = AveragedModel(model).eval().requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The averaged detector; the initial one as long as `count` is 0."""
        averaged: nn.Module = self._average.module
        return averaged

    @property
    def count(self) -> int:
        """How many models the mean is of."""
        return int(self._average.n_averaged)

    def is_due(self, epoch: int) -> bool:
        """Whether the weights after this many epochs belong to the mean."""
        after = epoch - self.first_epoch
        return after > 0 and after % self.every == 0

    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model`."""
        self._average.update_parameters(model)

    def holds(self, epoch: int) -> str:
        """Which weights are evaluated and saved after this many epochs, in words."""
        count = max(0, epoch - self.first_epoch) // self.every
        if count == 0:
            return "the last weights"
        return f"the mean of the weights of {count} epoch{'s' if count > 1 else ''}"

    def state_dict(self) -> dict[str, Any]:
        """`count`, and in `model` the averaged weights by their plain names, None before the
        first."""
        return {"count": self.count, "model": self.model.state_dict() if self.count else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.n_averaged.fill_(state["count"])
        if state["count"]:
            self.model.load_state_dict(state["model"])


@dataclass(frozen=True)
class Averages:
    """The averages of the weights that a recipe asks for, one at most."""

    ema: Ema | None = None
    swa: Swa | None = None

    def evaluated(self, detector: nn.Module) -> nn.Module:
        """The detector with the weights that count: averaged ones where there are any."""
        if self.ema is not None:
            return self.ema.model
        if self.swa is not None and self.swa.count:
            return self.swa.model
        return detector

    def holds(self, epoch: int) -> str:
        """Which weights are evaluated after this many epochs, and used by whoever reads a
        checkpoint, in words."""
        if self.ema is not None:
            return "the EMA weights"
        return "the last weights" if self.swa is None else self.swa.holds(epoch)


@torch.no_grad()
def reestimate_norms(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], object]
) -> int:
    """Replace the statistics of the batch norms that train by those over `batches`; how many
    norms these are. Those of a mean of weights have seen none of its own activations.

    Each gets the mean over the batches of all ranks of a batch's mean and (unbiased) variance,
    as torch.optim.swa_utils.update_bn; norms that are in eval mode while the model trains
    (frozen ones) keep theirs. `batches` is not read where there are none. The model is in eval
    mode afterwards.
    """
    model.train()
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    for batch in batches if norms else ():
        forward(model, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            assert statistic is not None, "a batch norm that trains tracks its statistics"
            statistic.copy_(all_rank_mean(statistic))
    model.eval()
    return len(norms)
