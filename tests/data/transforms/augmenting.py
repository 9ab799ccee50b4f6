"""Painted scenes and a pool without files, for the tests of augmentations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from detcli.data.transforms import Sample


def painted(
    size: tuple[int, int], boxes: Sequence[Any], ignore: Sequence[bool], first: int = 0
) -> Sample:
    """A black image; box number i has label first + i, and fills the channel of that number.

    One channel per box, so that boxes which overlap or are blended can still be told apart.
    """
    image = torch.zeros(*size, 3, dtype=torch.uint8).permute(2, 0, 1)  # as images are decoded
    labels = torch.arange(first, first + len(boxes))
    for box, label in zip(boxes, labels.tolist(), strict=True):
        x1, y1, x2, y2 = (round(value) for value in box)
        image[label, y1:y2, x1:x2] = 255
    return Sample(
        image,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels,
        torch.tensor(ignore, dtype=torch.bool),
    )


def measured(sample: Sample, label: int) -> torch.Tensor | None:
    """(4,) xyxy of the pixels at least half covered by a box's paint; None if there are none.

    The fill of new canvas is below half in every channel.
    """
    rows, columns = torch.nonzero(sample.image[label] > 127, as_tuple=True)
    if len(rows) == 0:
        return None
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


class FakePool:
    """Stands in for a pool of images with nothing small; remembers what was loaded."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.loaded: list[int] = []

    def any_image(self) -> Sample:
        index = min(int(torch.rand(()).item() * len(self.samples)), len(self.samples) - 1)
        return self.load(index)

    def load(self, index: int) -> Sample:
        self.loaded.append(index)
        return self.samples[index]

    def with_small(self, max_side_px: float) -> list[int]:
        return []


def seeded(seed: int, transform: Callable[..., Sample], *arguments: Any) -> Sample:
    """What the transform makes with this state of torch's generator."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return transform(*arguments)
