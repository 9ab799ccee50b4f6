"""What blending keeps, and what it hides."""

from __future__ import annotations

import torch

from detcli.data.transforms.blending import blend_in
from tests.data.transforms.augmenting import painted
from tests.data.transforms.cut_patches import negative


def test_poisson_blending_keeps_gradients_and_meets_the_image() -> None:
    """On a level image of another grey the whole patch is shifted: the equation's own solution."""
    level = painted((80, 80), [], []).changed(
        image=torch.full((80, 80, 3), 90, dtype=torch.uint8).permute(2, 0, 1)
    )
    patch = negative(level=150)
    out = blend_in(level, patch.sample, patch.core, 30, 20, blend="poisson")
    height, width = patch.sample.size
    region = out.image[:, 30 : 30 + height, 20 : 20 + width].int()
    expected = patch.sample.image.int() + 90
    assert (region - expected).abs().max() <= 2
    outside = torch.ones(80, 80, dtype=torch.bool)
    outside[30 : 30 + height, 20 : 20 + width] = False
    assert (out.image[:, outside] == 90).all()


def test_inpainting_copies_the_core_and_hides_its_surroundings() -> None:
    patch = negative(side=16, level=180)
    level = painted((80, 80), [], []).changed(
        image=torch.full((80, 80, 3), 90, dtype=torch.uint8).permute(2, 0, 1)
    )
    for top, left in ((0, 0), (30, 25), (80 - patch.sample.size[0], 80 - patch.sample.size[1])):
        sample = level.changed(image=level.image.clone())
        out = blend_in(sample, patch.sample, patch.core, top, left, blend="inpaint").image
        x1, y1, x2, y2 = patch.core
        assert (out[:, top + y1 : top + y2, left + x1 : left + x2] == 180).all()
        # The black around the square was left behind: the ring lies between the two greys.
        assert out.min() >= 88
        assert out[0, top + y1 - 1, left + x1 + 8] > 95
