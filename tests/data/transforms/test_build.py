"""The whole pipeline."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from detcli.data.transforms import Sample, build_transforms
from tests.data.transforms.augmenting import seeded
from tests.data.transforms.rectangles import MANY, marked_samples

RESIZE: dict[str, Any] = {"short": [40, 60], "long": 100, "pick": "choice", "eval_short": None}


ALL: dict[str, Any] = {
    "flip": {"horizontal": 0.5, "vertical": 0.5},
    "photometric": {"prob": 0.5},
    "zoom_out": {"prob": 0.5, "max_scale": 3.0},
    "iou_crop": {"prob": 0.8},
}


@MANY
@given(sample=marked_samples(), seed=st.integers(0, 10_000))
def test_the_whole_pipeline_keeps_boxes_valid(sample: Sample, seed: int) -> None:
    out = seeded(seed, build_transforms(resize=RESIZE, augment=ALL, train=True), sample)
    height, width = out.size
    assert out.image.dtype == torch.uint8
    assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
    assert (out.boxes >= -1e-3).all()
    assert (out.boxes <= torch.tensor([width, height] * 2) + 1e-3).all()


def test_names_are_what_may_fire() -> None:
    pipeline = build_transforms(resize=RESIZE, augment=ALL, train=True)
    assert pipeline.names == (
        "photometric",
        "zoom_out",
        "iou_crop",
        "flip_horizontal",
        "flip_vertical",
    )
    image = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
    sample = Sample(
        image, torch.tensor([[5.0, 5, 30, 40]]), torch.tensor([0]), torch.tensor([False])
    )
    fired = {name for seed in range(60) for name in seeded(seed, pipeline, sample).fired}
    assert fired == set(pipeline.names)


def test_nothing_that_is_off_ever_fires() -> None:
    off = dict.fromkeys(ALL) | {"flip": {"horizontal": 0.0, "vertical": 0.0}}
    pipeline = build_transforms(resize=RESIZE, augment=off, train=True)
    image = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert pipeline.names == ()
    assert all(seeded(seed, pipeline, sample).fired == () for seed in range(30))


def test_evaluation_only_resizes() -> None:
    image = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    for eval_short, expected in ((None, 60), (44, 44)):
        resize = RESIZE | {"eval_short": eval_short}
        out = build_transforms(resize=resize, augment=ALL, train=False)(sample)
        assert (out.size[0], out.fired) == (expected, ())
