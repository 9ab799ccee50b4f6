"""Patches of painted images."""

from __future__ import annotations

import torch

from detcli.data.transforms import Sample
from detcli.data.transforms.patches import Patch, cut_patch
from tests.data.transforms.augmenting import painted


def patch_of(scene: Sample, row: int = 0, label: int | None = 0) -> Patch:
    """A painted box cut out, as an object or, without a label, as a hard negative."""
    return cut_patch(
        scene,
        scene.boxes[row],
        label,
        name="a.png",
        path="scene.jpg",
        score=0.5 if label is None else None,
    )


def negative(side: int = 12, level: int = 200) -> Patch:
    """A grey square of the size of a box; it lies on black."""
    image = torch.zeros(60, 60, 3, dtype=torch.uint8).permute(2, 0, 1).clone()
    image[:, 20 : 20 + side, 20 : 20 + side] = level
    bare = painted((60, 60), [], []).changed(image=image)
    box = torch.tensor([20.0, 20, 20 + side, 20 + side])
    return cut_patch(bare, box, None, name="wrong.png", path="a.jpg", score=0.7)
