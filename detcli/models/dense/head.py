"""What the head of a dense detector is.

Letters: B images, D channels of a feature map; h, w cells of a level.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from detcli.models.dense.estimates import Estimates


class DenseHead(Protocol):
    """num_classes: without background; estimates: what is predicted beside class and box."""

    num_classes: int
    estimates: Estimates

    def __call__(self, x: Tensor, level: int) -> tuple[Tensor | None, ...]:
        """Class logits, boxes, centre-ness, IoU, sigma and density, as in `DenseOutputs`, of a
        level (B, D, h, w); None where it is not predicted."""
        ...
