"""The crop of DETR's training (Carion et al. 2020, appendix A.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.transforms.v2 import functional as F

from detcli.data.transforms.sample import Sample, draw, draw_index


class ResizeCrop:
    """Resize, crop, and let the resize that follows make the crop as large as whole images are.

    short: short sides in pixels, of which one is drawn; side_px: bounds of width and height of the
    crop at that size, each drawn on its own and at most the image's. What is left of an object in
    the crop is an object, however little it is, as in DETR's code; the first of its two resizes is
    left out here, so that pixels are interpolated once.
    """

    names = ("resize_crop",)

    def __init__(self, prob: float, short: Sequence[int], side_px: Sequence[int]) -> None:
        self.prob = prob
        self.short = tuple(short)
        self.side_px = tuple(side_px)

    def __call__(self, sample: Sample) -> Sample:
        if draw() >= self.prob:
            return sample
        scale = min(sample.size) / self.short[draw_index(len(self.short))]  # pixels there, per one
        height, width = (self._span(length, scale) for length in sample.size)
        if (height, width) == sample.size:
            return sample
        top = draw_index(sample.size[0] - height + 1)
        left = draw_index(sample.size[1] - width + 1)
        shift = torch.tensor([left, top] * 2, dtype=torch.float32)
        limit = torch.tensor([width, height] * 2, dtype=torch.float32)
        cut = sample.changed(
            "resize_crop",
            image=F.crop(sample.image, top, left, height, width),
            boxes=(sample.boxes - shift).clamp(min=0).minimum(limit),
        )
        return cut.without_degenerate()

    def _span(self, length: int, scale: float) -> int:
        """A side of the crop, in pixels of the image as stored."""
        shortest, longest = self.side_px
        most = min(round(length / scale), longest)
        least = min(shortest, most)
        return min(length, max(1, round((least + draw_index(most - least + 1)) * scale)))
