"""Stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407).

The mean of the weights at the ends of the last epochs. Its batch norms have seen none of its own
activations, so their statistics are estimated again with a pass over the training images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from detcli.models.detector import Detector
from detcli.ops.reduce import all_rank_mean


class Swa:
    """Keeps the mean of the weights after some epochs.

    first_epoch: epochs trained before averaging begins; every: epochs from one averaged model to
    the next. Buffers are those of the model that was taken in last, until `reestimate_norms`.
    """

    def __init__(self, model: Detector, *, first_epoch: int, every: int) -> None:
        self.first_epoch = first_epoch
        self.every = every
        self._average = AveragedModel(model).eval()
        for parameter in self._average.parameters():
            parameter.requires_grad_(False)

    @property
    def model(self) -> Detector:
        """The averaged detector; the initial one as long as `count` is 0."""
        return cast(Detector, self._average.module)

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


@torch.no_grad()
def reestimate_norms(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], object]
) -> int:
    """Replace the statistics of the batch norms that train by those over `batches`; how many
    norms these are.

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
