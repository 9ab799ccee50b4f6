"""The learning rate as a multiple of its base value, step by step.

Every schedule but plateau is a pure function of the step, so that resuming needs no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class AveragingRate:
    """The rate from optimiser step `first` on, while weights are averaged (Izmailov et al. 2018).

    It falls on a line from `high` to `low`, multiples of the base rate, in cycles of `cycle`
    steps, the last of which is at `low`; constant where the two are equal.
    """

    first: int
    cycle: int
    high: float
    low: float

    def factor(self, step: int) -> float:
        """The multiple of the base learning rate at this step, counted like `first`."""
        done = ((step - self.first) % self.cycle + 1) / self.cycle
        return (1 - done) * self.high + done * self.low


@dataclass
class Schedule:
    """Multiplies the learning rate of an optimiser.

    Steps count optimiser steps from 0. `milestones` and `epochs` are epochs. Cosine follows
    Loshchilov and Hutter 2017: floor + (1 - floor)(1 + cos(pi t)) / 2, where t runs from the end
    of the warm-up to the last step; with restarts in `restarts` cycles of equal length. From its
    first step on `averaging` takes the place of all that.
    """

    name: str
    epochs: int
    steps_per_epoch: int
    milestones: tuple[int, ...]
    gamma: float
    min_lr_ratio: float
    restarts: int
    patience: int
    monitor: str
    warmup: str
    warmup_steps: int
    warmup_ratio: float
    averaging: AveragingRate | None = None
    plateau: dict[str, Any] = field(
        default_factory=lambda: {"best": None, "waited": 0, "scale": 1.0}
    )

    def factor(self, step: int) -> float:
        """The multiple of the base learning rate at this step."""
        return self._main(step) * self._warm(step)

    def apply(self, optimizer: torch.optim.Optimizer, lr: float, step: int) -> float:
        """Set every group's learning rate for this step; the rate of a group with multiple 1."""
        current = lr * self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = current * group["lr_mult"]
        return current

    def _warm(self, step: int) -> float:
        if self.warmup == "none" or step >= self.warmup_steps:
            return 1.0
        if self.warmup == "constant":
            return self.warmup_ratio
        return self.warmup_ratio + (1 - self.warmup_ratio) * step / self.warmup_steps

    def _main(self, step: int) -> float:
        if self.averaging is not None and step >= self.averaging.first:
            return self.averaging.factor(step)
        if self.name == "plateau":
            return float(self.plateau["scale"])
        if self.name == "step":
            epoch = step // self.steps_per_epoch
            return float(self.gamma ** sum(epoch >= milestone for milestone in self.milestones))
        first = 0 if self.warmup == "none" else self.warmup_steps
        last = max(1, self.epochs * self.steps_per_epoch - first)
        done = min(1.0, max(0, step - first) / last)
        if self.name == "cosine_restarts":
            done = 1.0 if done >= 1.0 else (done * self.restarts) % 1.0
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2

    def end_epoch(self, metrics: dict[str, float | None], epoch: int = 0) -> str | None:
        """Tell plateau what was measured after this many epochs; the sentence to log when it lowers
        the rate."""
        if self.name != "plateau":
            return None
        if self.averaging is not None and epoch * self.steps_per_epoch > self.averaging.first:
            return None  # the rate is no longer the plateau's
        value = metrics.get(self.monitor)
        if value is None:
            return f"plateau: {self.monitor} was not measured this epoch, learning rate unchanged"
        score = -value if self.monitor == "loss" else value
        state = self.plateau
        if state["best"] is None or score > state["best"]:
            state.update(best=score, waited=0)
            return None
        state["waited"] += 1
        if state["waited"] <= self.patience:
            return None
        state.update(waited=0, scale=state["scale"] * self.gamma)
        return (
            f"plateau: {self.monitor} has not improved for {self.patience + 1} epochs, "
            f"learning rate x {self.gamma:g}"
        )

    def state_dict(self) -> dict[str, Any]:
        return dict(self.plateau)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau.update(state)
