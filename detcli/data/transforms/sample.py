"""What transforms take and return. Letters: M boxes of an image, ignored ones included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors


@dataclass(frozen=True)
class Sample:
    """One image on its way to the network.

    image (3, H, W) uint8 RGB; boxes (M, 4) float32 xyxy pixels of `image`; labels (M,) int64;
    ignore (M,) bool: crowd and difficult boxes; fired: the augmentations that acted so far.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    fired: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    def tv_boxes(self) -> Any:
        """The boxes as torchvision wants them."""
        return tv_tensors.BoundingBoxes(self.boxes, format="XYXY", canvas_size=self.size)

    def changed(self, name: str | None = None, **columns: Any) -> Sample:
        """A copy with other columns; `name` is added to the augmentations that acted."""
        fired = self.fired if name is None else (*self.fired, name)
        return replace(self, fired=fired, **columns)

    def keep(self, rows: Tensor) -> Sample:
        """Only the given rows of the box columns."""
        return replace(
            self, boxes=self.boxes[rows], labels=self.labels[rows], ignore=self.ignore[rows]
        )

    def without_degenerate(self) -> Sample:
        """Only boxes of positive width and height."""
        solid = (self.boxes[:, 2:] > self.boxes[:, :2]).all(dim=1)
        return self if bool(solid.all()) else self.keep(solid)


def draw() -> float:
    """A uniform number in [0, 1) from torch's generator, the only source of randomness here."""
    return torch.rand(()).item()
