"""Which weights of a run count: the last ones, or an average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from detcli.engine.train.ema import Ema
from detcli.engine.train.swa import Swa


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
            return "the moving average of the weights"
        return "the last weights" if self.swa is None else self.swa.holds(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Entries "ema" and "swa" of a checkpoint, None for one that there is not."""
        return {
            "ema": None if self.ema is None else self.ema.model.state_dict(),
            "swa": None if self.swa is None else self.swa.state_dict(),
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Take the averages out of a whole checkpoint."""
        if self.ema is not None:
            self.ema.model.load_state_dict(content["ema"])
        if self.swa is not None:
            self.swa.load_state_dict(content["swa"])
