"""Transforms of colour and sharpness; boxes stay where they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torchvision.transforms import v2

from detcli.data.transforms.sample import Sample, draw, draw_between


class Photometric:
    """Brightness, contrast, saturation, hue and channel order, each as likely as not (SSD).

    prob: fraction of the images that go through the five draws. Counts as fired when at least one
    of the five acted.
    """

    names = ("photometric",)

    def __init__(self, prob: float) -> None:
        self.prob = prob
        self.distort = v2.RandomPhotometricDistort(p=0.5)

    def __call__(self, sample: Sample) -> Sample:
        if draw() >= self.prob:
            return sample
        params = self.distort.make_params([sample.image])
        acting = {name: value for name, value in params.items() if name != "contrast_before"}
        if all(value is None for value in acting.values()):
            return sample
        return sample.changed("photometric", image=self.distort.transform(sample.image, params))


class ColourJitter:
    """Brightness, contrast, saturation and hue, all four in a drawn order.

    The first three are factors drawn from 1 - strength to 1 + strength; hue is a shift drawn from
    -hue to hue, in turns of the colour circle.
    """

    names = ("colour_jitter",)

    def __init__(
        self, prob: float, brightness: float, contrast: float, saturation: float, hue: float
    ) -> None:
        self.prob = prob
        self.jitter = v2.ColorJitter(brightness, contrast, saturation, hue)

    def __call__(self, sample: Sample) -> Sample:
        if draw() >= self.prob:
            return sample
        params = self.jitter.make_params([sample.image])
        return sample.changed("colour_jitter", image=self.jitter.transform(sample.image, params))


class Blur:
    """Gaussian blur; sigma: range in pixels of the image as stored, from which one is drawn."""

    names = ("blur",)

    def __init__(self, prob: float, sigma: Sequence[float]) -> None:
        self.prob = prob
        self.low, self.high = sigma

    def __call__(self, sample: Sample) -> Sample:
        # The border is filled by reflection, which must not reach past the opposite side.
        room = min(sample.size) - 1
        if draw() >= self.prob or room < 1:
            return sample
        sigma = draw_between(self.low, self.high)
        width = 2 * min(math.ceil(3 * sigma), room) + 1
        # OpenCV filters rows, then columns; torchvision's window takes twenty times as long.
        pixels = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        blurred = cv2.GaussianBlur(pixels, (width, width), sigma)
        return sample.changed("blur", image=torch.from_numpy(blurred).permute(2, 0, 1))
