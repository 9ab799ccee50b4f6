"""Reading the parity fixtures: weights by name, the batch, and sampled arrays."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from detcli.types import Target
from tests.paths import SHARED

PARITY = SHARED / "parity"


def weights_module() -> ModuleType:
    """The fixtures' own rules for weights and images."""
    spec = importlib.util.spec_from_file_location("parity_weights", PARITY / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Fixture:
    """One reference model's numbers."""

    def __init__(self, name: str) -> None:
        rules = weights_module()
        arrays = rules.state_dict(PARITY / f"{name}.keys.txt")
        self.arrays = dict(np.load(PARITY / f"{name}.npz"))
        assert rules.crc(arrays) == int(self.arrays["state_crc32"])
        self.state = {key: torch.from_numpy(value) for key, value in arrays.items()}
        sizes = [tuple(map(int, size)) for size in self.arrays["valid_hw"]]
        self.sizes: list[tuple[int, int]] = sizes  # type: ignore[assignment]
        self.images = torch.from_numpy(rules.images(sizes))
        self.targets = [
            Target(
                torch.from_numpy(self.arrays[f"gt/{image}/boxes"]).float().reshape(-1, 4),
                torch.from_numpy(self.arrays[f"gt/{image}/labels"]).long().reshape(-1),
                torch.zeros(0, 4),
                size,
            )
            for image, size in enumerate(self.sizes)
        ]

    def error(self, name: str, mine: Tensor) -> float:
        """Largest difference from a stored array, as a share of its largest value."""
        return relative_error(self.arrays, name, mine)


def relative_error(arrays: dict[str, np.ndarray], name: str, mine: Tensor) -> float:
    """Largest difference from a stored array, whole or sampled, as a share of its largest value."""
    got = mine.detach().float().numpy()
    if name in arrays:
        want = arrays[name]
        assert want.shape == got.shape, (name, want.shape, got.shape)
    else:
        assert tuple(arrays[f"{name}.shape"]) == got.shape
        want = arrays[f"{name}.val"]
        got = got.ravel()[arrays[f"{name}.idx"]]
    return float(np.abs(want - got).max() / max(np.abs(want).max(), 1e-12))


def num_agreeing(want: tuple[Tensor, Tensor, Tensor], got: tuple[Tensor, Tensor, Tensor]) -> int:
    """How many of the wanted boxes (N, 4), scores (N,), labels (N,) have a partner of the same
    label, score (1e-4) and place (0.05 pixel): equal scores may swap their order."""
    corner = (want[0][:, None] - got[0][None]).abs().amax(dim=2)
    score = (want[1][:, None] - got[1][None]).abs()
    same_label = want[2][:, None] == got[2][None]
    return int((same_label & (corner < 0.05) & (score < 1e-4)).any(dim=1).sum())
