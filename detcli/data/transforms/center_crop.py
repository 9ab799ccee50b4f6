"""The crop that CornerNet and CenterNet train with (arXiv 1808.01244, 1904.07850)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detcli.data.transforms.sample import Sample, blank, draw, draw_index

TRIES = 50  # places for one size of the window, before another size is drawn
SIZES = 10  # sizes of the window, before the image is left alone


class CenterCrop:
    """A square window around a drawn point of the image; what lies beyond the image is filled.

    side_px: side of the window before it is scaled, None for the image's longer side; scales: one
    is drawn and multiplies it; border_px: the point keeps this distance from the image's edges, or
    in small images the largest half, quarter, ... of it that leaves room. An object stays if its
    centre is in the window; where there are objects, one of them must be.
    """

    names = ("center_crop",)

    def __init__(
        self, prob: float, side_px: int | None, scales: Sequence[float], border_px: int
    ) -> None:
        self.prob = prob
        self.side_px = side_px
        self.scales = tuple(scales)
        self.border_px = border_px

    def __call__(self, sample: Sample) -> Sample:
        if draw() >= self.prob:
            return sample
        has_objects = not bool(sample.ignore.all())
        for _ in range(SIZES):
            scale = self.scales[draw_index(len(self.scales))]
            side = max(1, int((self.side_px or max(sample.size)) * scale))
            for _ in range(TRIES):
                top, left = (self._start(length, side) for length in sample.size)
                if not has_objects or _holds_object(sample, top, left, side):
                    return _window(sample, top, left, side).changed("center_crop")
        return sample

    def _start(self, length: int, side: int) -> int:
        """Where a window of `side` pixels begins on an axis of `length` pixels."""
        border = self.border_px
        while 2 * border >= length:
            border //= 2
        return border + draw_index(length - 2 * border) - side // 2


def _holds_object(sample: Sample, top: int, left: int, side: int) -> bool:
    centers = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2 - torch.tensor([left, top])
    return bool((((centers > 0) & (centers < side)).all(dim=1) & ~sample.ignore).any())


def _window(sample: Sample, top: int, left: int, side: int) -> Sample:
    """A square cut out of the image and of the fill around it."""
    height, width = sample.size
    image = blank(side, side)
    rows = slice(max(0, top), min(height, top + side))
    columns = slice(max(0, left), min(width, left + side))
    image[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
        sample.image[:, rows, columns]
    )
    return sample.shifted(-left, -top).changed(image=image).cut_to_image()
