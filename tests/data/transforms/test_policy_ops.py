"""Operations of the policies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image, ImageEnhance, ImageOps

from detcli.data.transforms import Sample
from detcli.data.transforms.policy_ops import EACH_OBJECT, WHOLE_IMAGE
from tests.data.transforms.augmenting import measured, painted, seeded
from tests.data.transforms.scenes import FEW, SEEDS, agree, noise, scenes, whole


@FEW
@given(sample=scenes(), seed=SEEDS)
def test_boxes_follow_a_rotation(sample: Sample, seed: int) -> None:
    """Bilinear corners fade: up to a pixel and a half at 30 degrees."""
    out = seeded(seed, lambda value: WHOLE_IMAGE["rotate"](value, 1.0), sample)
    agree(out.keep(whole(out)), 1.5)
    for box, label in zip(out.boxes, out.labels.tolist(), strict=True):
        paint = measured(out, label)
        if paint is not None:  # a cut shape lies inside its box
            assert (paint[:2] >= box[:2] - 1.5).all()
            assert (paint[2:] <= box[2:] + 1.5).all()


@pytest.mark.parametrize("op", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_both_directions_are_drawn(op: str) -> None:
    sample = painted((60, 80), [[30, 20, 50, 40]], [False])
    images = [seeded(seed, lambda value: WHOLE_IMAGE[op](value, 0.5), sample) for seed in range(20)]
    assert len({out.image.numpy().tobytes() for out in images}) == 2


def test_an_angle_is_what_it_says() -> None:
    """A box around the centre of a square image grows by cos + sin of the angle."""
    sample = painted((101, 101), [[30.5, 30.5, 70.5, 70.5]], [False])
    out = seeded(0, lambda value: WHOLE_IMAGE["rotate"](value, 1.0), sample)
    side = 40 * (math.cos(math.pi / 6) + math.sin(math.pi / 6))
    expected = torch.tensor([50.5 - side / 2] * 2 + [50.5 + side / 2] * 2)
    assert torch.allclose(out.boxes[0], expected, atol=1e-3)


def pillow(change: Any) -> torch.Tensor:
    """noise() after a change by Pillow, the paper's first implementation of these operations."""
    image = Image.fromarray(noise().permute(1, 2, 0).numpy())
    return torch.from_numpy(np.array(change(image))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("equalize", ImageOps.equalize),
        ("autocontrast", ImageOps.autocontrast),
        ("posterize", lambda image: ImageOps.posterize(image, 2)),
        ("solarize", lambda image: ImageOps.solarize(image, 128)),
        ("color", lambda image: ImageEnhance.Color(image).enhance(1.0)),
        ("brightness", lambda image: ImageEnhance.Brightness(image).enhance(1.0)),
    ],
)
def test_colour_operations_equal_pillow_at_half_level(name: str, change: Any) -> None:
    """Level 0.5: two bits, threshold 128, and factor 1.0 of the enhancements."""
    sample = painted((40, 60), [], []).changed(image=noise())
    out = WHOLE_IMAGE[name](sample, 0.5)
    assert (out.image.int() - pillow(change).int()).abs().max() <= 1


@pytest.mark.parametrize(("level", "factor"), [(0.0, 0.1), (1.0, 1.9)])
def test_enhancements_reach_the_papers_factors(level: float, factor: float) -> None:
    sample = painted((40, 60), [], []).changed(image=noise())
    for name, kind in (("color", ImageEnhance.Color), ("brightness", ImageEnhance.Brightness)):
        expected = pillow(lambda image, kind=kind: kind(image).enhance(factor))
        got = WHOLE_IMAGE[name](sample, level).image
        assert (got.int() - expected.int()).abs().max() <= 2


def test_solarize_add_brightens_the_dark_half() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).repeat(3, 1, 1)
    out = WHOLE_IMAGE["solarize_add"](painted((1, 256), [], []).changed(image=ramp), 1.0)
    assert out.image[0, 0, :128].tolist() == list(range(110, 238))
    assert out.image[0, 0, 128:].tolist() == list(range(128, 256))


@pytest.mark.parametrize("name", EACH_OBJECT)
def test_operations_on_objects_change_nothing_outside_their_boxes(name: str) -> None:
    sample = painted((40, 60), [[5, 5, 25, 21], [30, 10, 50, 35]], [False, True])
    sample = sample.changed(image=noise())
    outs = [seeded(seed, EACH_OBJECT[name], sample, 0.6, 3.0) for seed in range(8)]
    for out in outs:
        assert torch.equal(out.boxes, sample.boxes)
        outside = torch.ones(40, 60, dtype=torch.bool)
        outside[5:21, 5:25] = False
        assert torch.equal(out.image[:, outside], sample.image[:, outside])
    assert any(not torch.equal(out.image, sample.image) for out in outs)


def test_operations_on_objects_take_a_third_of_the_probability() -> None:
    sample = painted((40, 60), [[5, 5, 25, 21]], [False]).changed(image=noise())
    changed = [
        seeded(seed, EACH_OBJECT["objects:flip"], sample, 0.6, 0.9) is not sample
        for seed in range(400)
    ]
    assert 90 < sum(changed) < 150
