"""The learning rate as a multiple of its base value, step by step.

Every schedule but plateau is a pure function of the step, so that resuming needs no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from detcli.recipe.sections.schedule import Schedule as Options


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

    options: Options
    steps_per_epoch: int
    averaging: AveragingRate | None = None
    plateau: dict[str, Any] = field(
        default_factory=lambda: {"best": None, "waited": 0, "scale": 1.0}
    )

    @property
    def epochs(self) -> int:
        """How many to train."""
        return self.options.num_epochs

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
        kind, steps = self.options.warmup, self.options.warmup_steps
        if kind == "none" or step >= steps:
            return 1.0
        ratio = self.options.warmup_ratio
        return ratio if kind == "constant" else ratio + (1 - ratio) * step / steps

    def _main(self, step: int) -> float:
        if self.averaging is not None and step >= self.averaging.first:
            return self.averaging.factor(step)
        options = self.options
        if options.name == "plateau":
            return float(self.plateau["scale"])
        if options.name == "step":
            epoch = step // self.steps_per_epoch
            passed = sum(epoch >= milestone for milestone in options.milestone_epochs)
            return float(options.gamma**passed)
        first = 0 if options.warmup == "none" else options.warmup_steps
        last = max(1, self.epochs * self.steps_per_epoch - first)
        done = min(1.0, max(0, step - first) / last)
        if options.name == "cosine_restarts":
            done = 1.0 if done >= 1.0 else (done * options.restarts) % 1.0
        floor = options.min_lr_ratio
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    def end_epoch(self, metrics: dict[str, float | None], epoch: int = 0) -> str | None:
        """Tell plateau what was measured after this many epochs; the sentence to log when it lowers
        the rate."""
        options, state = self.options, self.plateau
        if options.name != "plateau":
            return None
        if self.averaging is not None and epoch * self.steps_per_epoch > self.averaging.first:
            return None  # the rate is no longer the plateau's
        value = metrics.get(options.monitor)
        if value is None:
            return (
                f"plateau: {options.monitor} was not measured this epoch, learning rate unchanged"
            )
        score = -value if options.monitor == "loss" else value
        if state["best"] is None or score > state["best"]:
            state.update(best=score, waited=0)
            return None
        state["waited"] += 1
        if state["waited"] <= options.patience:
            return None
        state.update(waited=0, scale=state["scale"] * options.gamma)
        return (
            f"plateau: {options.monitor} has not improved for {options.patience + 1} epochs, "
            f"learning rate x {options.gamma:g}"
        )

    def state_dict(self) -> dict[str, Any]:
        return dict(self.plateau)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau.update(state)
