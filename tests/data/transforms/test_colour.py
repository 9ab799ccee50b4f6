"""What changes colours only."""

from __future__ import annotations

import torch
from torchvision.transforms.v2 import functional as F

from detcli.data.transforms import Sample
from detcli.data.transforms.colour import Blur, ColourJitter, Photometric
from tests.data.transforms.augmenting import painted, seeded
from tests.data.transforms.scenes import noise


def test_photometric_changes_colours_only() -> None:
    image = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
    sample = Sample(image, torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0]), torch.tensor([False]))
    outs = [seeded(seed, Photometric(1.0), sample) for seed in range(40)]
    for out in outs:
        assert torch.equal(out.boxes, sample.boxes)
        assert (out.fired == ("photometric",)) or torch.equal(out.image, image)
    assert sum(not torch.equal(out.image, image) for out in outs) >= 32
    assert all(seeded(seed, Photometric(0.0), sample).fired == () for seed in range(40))


def test_blur_keeps_the_mean_and_lowers_the_contrast() -> None:
    sample = painted((40, 60), [], []).changed(image=noise())
    for seed in range(10):
        out = seeded(seed, Blur(1.0, (1.0, 2.0)), sample)
        assert out.fired == ("blur",)
        assert abs(out.image.float().mean() - sample.image.float().mean()) < 2
        assert out.image.float().std() < 0.5 * sample.image.float().std()


def test_blur_equals_torchvision_at_its_sigma() -> None:
    sample = painted((40, 60), [], []).changed(image=noise())
    out = seeded(0, Blur(1.0, (1.5, 1.5)), sample)
    expected = F.gaussian_blur(sample.image, [11, 11], [1.5, 1.5])
    assert (out.image.int() - expected.int()).abs().max() <= 1


def test_colour_jitter_of_strength_zero_is_no_change() -> None:
    sample = painted((40, 60), [], []).changed(image=noise())
    still = seeded(0, ColourJitter(1.0, 0.0, 0.0, 0.0, 0.0), sample)
    assert torch.equal(still.image, sample.image)
    brighter = [
        seeded(seed, ColourJitter(1.0, 0.5, 0.0, 0.0, 0.0), sample).image for seed in range(30)
    ]
    ratios = torch.stack([image.float().mean() for image in brighter]) / sample.image.float().mean()
    assert 0.45 < ratios.min() < 0.75
    assert 1.05 < ratios.max() < 1.5
