"""What every transform must do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given

from detcli.data.transforms import Sample, build_transforms
from detcli.data.transforms.chips import Chips
from detcli.data.transforms.crop import SafeCrop
from detcli.data.transforms.policy_ops import WHOLE_IMAGE
from tests.data.transforms.augmenting import seeded
from tests.data.transforms.scenes import FEW, SEEDS, agree, scenes, whole


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (20, 20)])
def test_an_image_without_objects_passes_every_transform(size: tuple[int, int]) -> None:
    sample = Sample(
        torch.zeros(3, *size, dtype=torch.uint8),
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(0, dtype=torch.bool),
    )
    pipeline = build_transforms(resize=RESIZE, augment=ALL, train=True)
    for seed in range(20):
        out = seeded(seed, pipeline, sample)
        assert out.boxes.shape == (0, 4)
        assert min(out.size) >= 1


RESIZE: dict[str, Any] = {"short": [40, 60], "long": 100, "pick": "choice", "eval_short": None}


ALL: dict[str, Any] = {
    "flip": {"horizontal": 0.5, "vertical": 0.5},
    "photometric": {"prob": 0.5},
    "zoom_out": {"prob": 0.5, "max_scale": 3.0},
    "iou_crop": {"prob": 0.8},
}


GEOMETRIC = {
    "crop_one": (SafeCrop(1.0, 0.3, "one"), 0.0),
    "crop_all": (SafeCrop(1.0, 0.3, "all"), 0.0),
    "chips": (Chips([30, 64], (0.05, 0.9), 0.2), 0.0),
    "translate_x": (lambda sample: WHOLE_IMAGE["translate_x"](sample, 0.4), 0.0),
    "translate_y": (lambda sample: WHOLE_IMAGE["translate_y"](sample, 0.8), 0.0),
    "shear_x": (lambda sample: WHOLE_IMAGE["shear_x"](sample, 1.0), 1.0),
    "shear_y": (lambda sample: WHOLE_IMAGE["shear_y"](sample, 0.4), 1.0),
}


@pytest.mark.parametrize("name", GEOMETRIC)
@FEW
@given(sample=scenes(), seed=SEEDS)
def test_boxes_follow(name: str, sample: Sample, seed: int) -> None:
    transform, tolerance = GEOMETRIC[name]
    out = seeded(seed, transform, sample)
    if name.startswith("shear"):
        out = out.keep(whole(out))
    agree(out, tolerance)
    kept_ignored = set(sample.labels[sample.ignore].tolist())
    if name != "chips":  # which also ignores objects of other sizes
        assert set(out.labels[out.ignore].tolist()) <= kept_ignored
    assert not kept_ignored & set(out.labels[~out.ignore].tolist())
