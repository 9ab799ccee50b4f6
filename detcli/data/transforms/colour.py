"""Transforms of colour; boxes stay where they are."""

from __future__ import annotations

from torchvision.transforms import v2

from detcli.data.transforms.sample import Sample, draw


class Photometric:
    """Brightness, contrast, saturation, hue and channel order, each as likely as not (SSD).

    prob: share of the images that go through the five draws. Counts as fired when at least one
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
