"""What transforms take and return. Letters: M boxes of an image, ignored ones included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

IMAGENET_MEAN = (124, 116, 104)
"""Fill of new canvas: close to zero after normalisation, like the padding of a batch."""


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

    def shifted(self, x: float, y: float) -> Sample:
        """The same with its boxes moved by so many pixels to the right and down."""
        shift = torch.tensor([x, y] * 2, dtype=torch.float32)
        return replace(self, boxes=self.boxes + shift)

    def with_boxes_of(self, other: Sample) -> Sample:
        """The image with the boxes of another sample below its own."""
        return replace(
            self,
            boxes=torch.cat([self.boxes, other.boxes]),
            labels=torch.cat([self.labels, other.labels]),
            ignore=torch.cat([self.ignore, other.ignore]),
        )

    def without_degenerate(self) -> Sample:
        """Only boxes of positive width and height."""
        solid = (self.boxes[:, 2:] > self.boxes[:, :2]).all(dim=1)
        return self if bool(solid.all()) else self.keep(solid)

    def cut_to_image(self) -> Sample:
        """Boxes cut to the image: an object stays if its centre is inside, an ignored region if
        any of it is."""
        height, width = self.size
        limit = torch.tensor([width, height] * 2, dtype=torch.float32)
        centres = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        inside = ((centres > 0) & (centres < limit[:2])).all(dim=1) | self.ignore
        boxes = self.boxes.clamp(min=0).minimum(limit)
        return self.changed(boxes=boxes).keep(inside).without_degenerate()


def draw() -> float:
    """A uniform number in [0, 1) from torch's generator, the only source of randomness here."""
    return torch.rand(()).item()


def draw_between(low: float, high: float) -> float:
    """A uniform number in [low, high)."""
    return low + draw() * (high - low)


def draw_index(count: int) -> int:
    """A uniform whole number in [0, count)."""
    # float32 can round the product up to `count` itself where that is large.
    return min(int(draw() * count), count - 1)


def blank(height: int, width: int) -> Tensor:
    """(3, height, width) uint8 of the fill colour, channels last in memory like decoded images."""
    # A row at a time: filling pixel by pixel takes ten times as long.
    row = torch.tensor(IMAGENET_MEAN, dtype=torch.uint8).repeat(width)
    return row.expand(height, -1).contiguous().view(height, width, 3).permute(2, 0, 1)
