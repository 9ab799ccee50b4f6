"""Transforms that move pixels and boxes together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detcli.data.transforms.sample import IMAGENET_MEAN, Sample, draw, draw_index


def scaled_size(size: tuple[int, int], short: int, long: int | None) -> tuple[int, int]:
    """(height, width) that fits `short` x `long` whichever way round, aspect ratio kept; long None:
    a square of `short`.

    factor = min(long / max side, short / min side), new side = int(side * factor + 0.5), as in
    MMDetection, so that published settings mean the same pixels.
    """
    if long is None:
        return short, short
    height, width = size
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


class Resize:
    """Resize by short and long side, or with long None to squares, bilinear with anti-aliasing.

    pick: `choice` takes one of `shorts` per image, `range` any whole number between the two.
    """

    def __init__(self, shorts: Sequence[int], long: int | None, pick: str) -> None:
        if pick not in ("choice", "range"):
            raise ValueError(f"pick: expected choice or range, got {pick!r}")
        self.shorts = tuple(shorts)
        self.long = long
        self.pick = pick

    def __call__(self, sample: Sample) -> Sample:
        height, width = scaled_size(sample.size, self._short(), self.long)
        return resized(sample, height, width)

    def _short(self) -> int:
        if len(self.shorts) == 1:
            return self.shorts[0]
        if self.pick == "choice":
            return self.shorts[draw_index(len(self.shorts))]
        low, high = min(self.shorts), max(self.shorts)
        return low + draw_index(high - low + 1)


def resized(sample: Sample, height: int, width: int) -> Sample:
    """The sample at exactly this size, bilinear with anti-aliasing."""
    if (height, width) == sample.size:
        return sample
    old_height, old_width = sample.size
    factors = torch.tensor([width / old_width, height / old_height] * 2)
    return sample.changed(
        image=F.resize(sample.image, [height, width], antialias=True), boxes=sample.boxes * factors
    )


class Flip:
    """Mirror left-right and top-bottom, each with its own probability."""

    def __init__(self, horizontal: float, vertical: float) -> None:
        self.horizontal = horizontal
        self.vertical = vertical
        chances = {"flip_horizontal": horizontal, "flip_vertical": vertical}
        self.names = tuple(name for name, chance in chances.items() if chance > 0)

    def __call__(self, sample: Sample) -> Sample:
        if draw() < self.horizontal:
            sample = flip_horizontal(sample)
        if draw() < self.vertical:
            sample = flip_vertical(sample)
        return sample


def flip_horizontal(sample: Sample) -> Sample:
    """Mirror left-right."""
    boxes = sample.boxes.clone()
    boxes[:, [0, 2]] = sample.size[1] - sample.boxes[:, [2, 0]]
    return sample.changed("flip_horizontal", image=F.horizontal_flip(sample.image), boxes=boxes)


def flip_vertical(sample: Sample) -> Sample:
    """Mirror top-bottom."""
    boxes = sample.boxes.clone()
    boxes[:, [1, 3]] = sample.size[0] - sample.boxes[:, [3, 1]]
    return sample.changed("flip_vertical", image=F.vertical_flip(sample.image), boxes=boxes)


class ZoomOut:
    """Put the image somewhere on a canvas up to `max_scale` times larger (SSD)."""

    names = ("zoom_out",)

    def __init__(self, prob: float, max_scale: float) -> None:
        self.prob = prob
        self.place = v2.RandomZoomOut(side_range=(1.0, max_scale), p=1.0)

    def __call__(self, sample: Sample) -> Sample:
        if draw() >= self.prob:
            return sample
        padding = self.place.make_params([sample.image])["padding"]
        fill = [float(value) for value in IMAGENET_MEAN]
        image = F.pad(sample.image, padding, fill=fill)
        return sample.shifted(padding[0], padding[1]).changed("zoom_out", image=image)
