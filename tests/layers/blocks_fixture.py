"""Numbers of public building blocks: tests/fixtures/parity/blocks.*"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tests.fixtures import name_seeded
from tests.models.fixtures import relative_error
from tests.paths import PARITY


class BlockFixture:
    """One block: its checkpoint, the input, and what the reference made of it."""

    def __init__(self, name: str) -> None:
        tensors = name_seeded.state_dict(PARITY / "blocks.keys.txt")
        stored = dict(np.load(PARITY / "blocks.npz"))
        assert name_seeded.crc(tensors) == int(stored["state_crc32"])
        prefix = f"{name}/"
        self.input = torch.from_numpy(stored["input"])
        self.state = {
            key.removeprefix(prefix): torch.from_numpy(value)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
        self.arrays = {
            key.removeprefix(prefix): value
            for key, value in stored.items()
            if key.startswith(prefix)
        }
        numbers = name_seeded.uniform(f"blocks/{name}/cotangent", self.arrays["output"].size)
        self.cotangent = torch.from_numpy(numbers).view(self.arrays["output"].shape)

    def error(self, name: str, mine: Tensor) -> float:
        """Largest difference from a stored array, as a share of its largest value."""
        return relative_error(self.arrays, name, mine)

    def errors(self, block: nn.Module, ours: Callable[[str], str]) -> dict[str, float]:
        """Those of the output and of all gradients, for the reference's own loss and with batch
        norms on running statistics; `ours`: our name of one of the reference's parameters."""
        x = self.input.clone().requires_grad_()
        y = block.eval()(x)
        (y * self.cotangent).sum().backward()
        assert x.grad is not None
        found = {"output": self.error("output", y), "grad_input": self.error("grad_input", x.grad)}
        for name, parameter in block.named_parameters():
            (theirs,) = [key for key in self.state if ours(key) == name]
            assert parameter.grad is not None
            found[name] = self.error(f"grad/{theirs}", parameter.grad)
        return found
