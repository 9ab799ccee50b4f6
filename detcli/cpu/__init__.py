"""Faster ways that only a CPU needs, all in this folder, and their one switch.

What gains less than a tenth of a training step, in time or memory, has no place here. On other
devices, under a compiler and with DETCLI_CPU_SPEED=off PyTorch's own functions and settings are
used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from detcli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

SWITCH = "DETCLI_CPU_SPEED"
# PyTorch reads this once: tensors of 2 MiB and more then lie on large pages of Linux, which saves a
# twentieth of a step of a small RetinaNet.
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}


def wanted() -> bool:
    """What the switch says. Raises UsageError where it says neither on nor off."""
    value = os.environ.get(SWITCH, "on")
    if value not in ("on", "off"):
        raise UsageError(f"{SWITCH}={value}: expected on or off in the environment")
    return value == "on"


def takes(x: Tensor) -> bool:
    """Whether this folder's way is taken with `x`."""
    import torch

    return x.device.type == "cpu" and not torch.compiler.is_compiling() and wanted()


def use_large_pages() -> None:
    """Ask PyTorch for them, unless the user has said something else; before torch is imported."""
    for name, value in LARGE_PAGES.items() if wanted() else ():
        os.environ.setdefault(name, value)
