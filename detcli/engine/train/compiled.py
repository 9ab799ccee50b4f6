"""torch.compile of a detector's forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from detcli.errors import UsageError
from detcli.models.detector import Detector


def compiled(detector: Detector, device: torch.device, say: Callable[[str], None]) -> nn.Module:
    """A compiled form of `detector` that shares its parameters; the detector itself, its state and
    the names in it stay as they are.

    Raises UsageError when nothing can be compiled here, which a small program shows at once and
    not after the first batch has been loaded.
    """
    try:
        torch.compile(_small_program)(torch.ones(8, device=device))
    except Exception as error:  # each missing part of the tool chain has an exception of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise UsageError(
            f"train.compile: torch.compile does not work on {device} here ({reason}); it needs "
            "a C++ compiler (g++ or clang), on CUDA also Triton; or set train.compile=false"
        ) from None
    say(
        "train.compile: the first steps, and those with a new input shape, take longer: "
        "the forward pass in training is compiled then; evaluation is not compiled"
    )
    return cast(nn.Module, torch.compile(detector))


def _small_program(x: torch.Tensor) -> torch.Tensor:
    return (2 * x + 1).relu().sum()
