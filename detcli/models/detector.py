"""What every detector is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from detcli.types import Candidates, Target


class Detector(Protocol):
    """A network, its losses and its decoding, in three steps that share the outputs."""

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Any:
        """Outputs, a NamedTuple, for images (B, 3, H, W), normalised and padded with zeros.

        Detectors that sample need the targets for a loss. Those with `uses_sizes` also take
        `sizes`, the valid (height, width) of each image, so that decode need not look again.
        """
        ...

    def loss(self, outputs: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Weighted scalar terms in float32; their sum is what training minimises.

        Normalisers are means over all ranks. Finite for images, and whole batches, without
        objects, and then every trainable parameter still receives a gradient.
        """
        ...

    def decode(self, outputs: Any, image_sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
        """Candidates of each image before suppression, clipped to its valid (height, width) unless
        what was published leaves them as they are (DETR)."""
        ...
