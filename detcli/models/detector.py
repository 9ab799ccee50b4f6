"""What every detector is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from detcli.types import Candidates, Target


class Detector(nn.Module, ABC):
    """A network, its losses and its decoding, in three steps that share the outputs.

    Nothing is inherited from here: a class and no Protocol, because it is a module as well, which a
    Protocol cannot say.
    """

    @abstractmethod
    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Any:
        """Outputs, a NamedTuple, for images (B, 3, H, W), normalised and padded with zeros: all
        that the network has to say, of which loss and decode make what they need.

        targets: detectors that sample need them for a loss, and decode then has no use for the
        outputs. sizes: the valid (height, width) of each image, where there are no targets that
        say it; None: all of the batch is valid.
        """

    @abstractmethod
    def loss(self, outputs: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Weighted scalar terms in float32; their sum is what training minimises.

        Normalisers are means over all ranks. Finite for images, and whole batches, without
        objects, and then every trainable parameter still receives a gradient.
        """

    @abstractmethod
    def decode(self, outputs: Any, image_sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
        """Candidates of each image before suppression, clipped to its valid (height, width) unless
        what was published leaves them as they are (DETR). No layer of the network runs."""


@runtime_checkable
class MatchesQueries(Protocol):
    """A detector of which each object has one query, as in DETR."""

    def matched_queries(self, outputs: Any, targets: Sequence[Target]) -> list[Tensor]:
        """The query (N,) of each object of each image, -1 for none."""
        ...


def sizes_of(
    targets: Sequence[Target] | None,
    sizes: Sequence[tuple[int, int]] | None,
    canvas: tuple[int, int],
    count: int,
) -> tuple[tuple[int, int], ...]:
    """(height, width) of the valid part of each of `count` images, all of them where neither
    targets nor sizes say."""
    if targets is not None:
        return tuple(target.size for target in targets)
    return tuple(sizes) if sizes is not None else (canvas,) * count
