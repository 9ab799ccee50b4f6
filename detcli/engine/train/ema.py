"""An exponential moving average of the weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from detcli.models.detector import Detector


class Ema:
    """Keeps `average = decay x average + (1 - decay) x weights` in float32.

    The decay warms up as decay x (1 - exp(-step / warmup_steps)), so that the first, random
    weights are forgotten. Floating buffers (batch-norm statistics) are averaged too, counters
    are copied.
    """

    def __init__(self, model: Detector, *, decay: float, warmup_steps: int) -> None:
        self.model = copy.deepcopy(model).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
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
