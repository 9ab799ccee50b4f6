"""Flips, sizes and zooming out: draw a rectangle, transform, and measure where it went."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detcli.data.transforms import Sample, build_transforms
from detcli.data.transforms.geometry import (
    Flip,
    Resize,
    ZoomOut,
    flip_horizontal,
    flip_vertical,
    scaled_size,
)
from tests.data.transforms.augmenting import seeded
from tests.data.transforms.rectangles import MANY, marked_samples, measured_box


@MANY
@given(sample=marked_samples())
@pytest.mark.parametrize("flip", [flip_horizontal, flip_vertical])
def test_boxes_follow_a_flip_and_two_flips_change_nothing(flip: Any, sample: Sample) -> None:
    once = flip(sample)
    assert torch.equal(once.boxes[0], measured_box(once))
    twice = flip(once)
    assert torch.equal(twice.boxes, sample.boxes)
    assert torch.equal(twice.image, sample.image)
    assert len(twice.fired) == 2


@MANY
@given(sample=marked_samples(), short=st.integers(20, 200), long=st.integers(60, 300))
def test_boxes_follow_a_resize(sample: Sample, short: int, long: int) -> None:
    resized = Resize([short], long, "choice")(sample)
    scale = max(resized.size) / max(sample.size)
    assert resized.size == scaled_size(sample.size, short, long)
    assert torch.allclose(resized.boxes[0], measured_box(resized), atol=0.6 + 0.6 * scale)
    assert max(resized.size) <= long + 1
    assert min(resized.size) <= short + 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((500, 2000), (333, 1333)),
        ((427, 640), (800, 1199)),
    ],
)
def test_sizes_equal_mmdetection(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """(1333, 800) on common shapes, worked out by hand from min(1333 / max, 800 / min)."""
    assert scaled_size(size, 800, 1333) == expected


@MANY
@given(sample=marked_samples(), short=st.integers(20, 200))
def test_squares_whatever_the_shape(sample: Sample, short: int) -> None:
    resize = {"short": [short], "long": 9, "pick": "choice", "eval_short": None}
    pipeline = build_transforms(
        resize=resize | {"keep_aspect": False}, augment={"flip": None}, train=True
    )
    squashed = pipeline(sample)
    assert squashed.size == (short, short)
    scale = short / min(sample.size)
    assert torch.allclose(squashed.boxes[0], measured_box(squashed), atol=0.6 + 0.6 * scale)


def test_multi_scale_draws_what_it_may() -> None:
    sample = Sample(
        torch.zeros(3, 50, 100, dtype=torch.uint8), torch.zeros(0, 4), *[torch.zeros(0)] * 2
    )
    choice = {seeded(i, Resize([30, 40], 999, "choice"), sample).size[0] for i in range(40)}
    assert choice == {30, 40}
    ranged = {seeded(i, Resize([30, 34], 999, "range"), sample).size[0] for i in range(80)}
    assert ranged == {30, 31, 32, 33, 34}


@MANY
@given(sample=marked_samples(), seed=st.integers(0, 1000))
def test_boxes_follow_a_zoom_out(sample: Sample, seed: int) -> None:
    zoomed = seeded(seed, ZoomOut(1.0, 3.0), sample)
    assert torch.equal(zoomed.boxes[0], measured_box(zoomed))
    assert zoomed.size[0] >= sample.size[0]
    assert zoomed.fired == ("zoom_out",)


def test_flip_probability() -> None:
    sample = Sample(
        torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(0, 4), *[torch.zeros(0)] * 2
    )
    count = sum(len(seeded(seed, Flip(0.25, 0.0), sample).fired) for seed in range(1000))
    assert 200 < count < 300
