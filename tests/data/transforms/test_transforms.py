"""Boxes follow pixels: draw a rectangle, transform, and measure where it went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.data.transforms import Sample, build_transforms
from detcli.data.transforms.center_crop import CenterCrop
from detcli.data.transforms.colour import Photometric
from detcli.data.transforms.crop import IoUCrop, crop
from detcli.data.transforms.geometry import (
    Flip,
    Resize,
    ZoomOut,
    flip_horizontal,
    flip_vertical,
    scaled_size,
)

SETTINGS = settings(max_examples=80, deadline=None)


@st.composite
def marked_samples(draw: Any) -> Sample:
    """A black image with one white rectangle, and its box."""
    height, width = draw(st.integers(30, 90)), draw(st.integers(30, 90))
    x1, y1 = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
    x2, y2 = draw(st.integers(x1 + 10, width)), draw(st.integers(y1 + 10, height))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    boxes = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32)
    return Sample(image, boxes, torch.tensor([2]), torch.tensor([False]))


def measured(sample: Sample) -> torch.Tensor:
    """(4,) xyxy of the bright pixels."""
    rows, columns = torch.nonzero(sample.image[0] > 127, as_tuple=True)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def seeded(seed: int, transform: Callable[[Sample], Sample], sample: Sample) -> Sample:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return transform(sample)


@SETTINGS
@given(sample=marked_samples())
@pytest.mark.parametrize("flip", [flip_horizontal, flip_vertical])
def test_boxes_follow_a_flip_and_two_flips_change_nothing(flip: Any, sample: Sample) -> None:
    once = flip(sample)
    assert torch.equal(once.boxes[0], measured(once))
    twice = flip(once)
    assert torch.equal(twice.boxes, sample.boxes)
    assert torch.equal(twice.image, sample.image)
    assert len(twice.fired) == 2


@SETTINGS
@given(sample=marked_samples(), short=st.integers(20, 200), long=st.integers(60, 300))
def test_boxes_follow_a_resize(sample: Sample, short: int, long: int) -> None:
    resized = Resize([short], long, "choice")(sample)
    scale = max(resized.size) / max(sample.size)
    assert resized.size == scaled_size(sample.size, short, long)
    assert torch.allclose(resized.boxes[0], measured(resized), atol=0.6 + 0.6 * scale)
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


@SETTINGS
@given(sample=marked_samples(), short=st.integers(20, 200))
def test_squares_whatever_the_shape(sample: Sample, short: int) -> None:
    resize = {"short": [short], "long": 9, "pick": "choice", "eval_short": None}
    pipeline = build_transforms(
        resize=resize | {"keep_aspect": False}, augment={"flip": None}, train=True
    )
    squashed = pipeline(sample)
    assert squashed.size == (short, short)
    scale = short / min(sample.size)
    assert torch.allclose(squashed.boxes[0], measured(squashed), atol=0.6 + 0.6 * scale)


def test_multi_scale_draws_what_it_may() -> None:
    sample = Sample(
        torch.zeros(3, 50, 100, dtype=torch.uint8), torch.zeros(0, 4), *[torch.zeros(0)] * 2
    )
    choice = {seeded(i, Resize([30, 40], 999, "choice"), sample).size[0] for i in range(40)}
    assert choice == {30, 40}
    ranged = {seeded(i, Resize([30, 34], 999, "range"), sample).size[0] for i in range(80)}
    assert ranged == {30, 31, 32, 33, 34}


@SETTINGS
@given(sample=marked_samples(), seed=st.integers(0, 1000))
def test_boxes_follow_a_zoom_out(sample: Sample, seed: int) -> None:
    zoomed = seeded(seed, ZoomOut(1.0, 3.0), sample)
    assert torch.equal(zoomed.boxes[0], measured(zoomed))
    assert zoomed.size[0] >= sample.size[0]
    assert zoomed.fired == ("zoom_out",)


@SETTINGS
@given(sample=marked_samples(), seed=st.integers(0, 1000))
def test_boxes_follow_an_iou_crop(sample: Sample, seed: int) -> None:
    cropped = seeded(seed, IoUCrop(1.0), sample)
    assert len(cropped.boxes) == 1  # the only object is never cropped away
    assert torch.equal(cropped.boxes[0], measured(cropped))
    assert (cropped.size == sample.size) or cropped.fired == ("iou_crop",)


@SETTINGS
@given(
    sample=marked_samples(),
    seed=st.integers(0, 1000),
    side=st.one_of(st.none(), st.integers(20, 90)),
    border=st.integers(0, 60),
)
def test_boxes_follow_a_center_crop(
    sample: Sample, seed: int, side: int | None, border: int
) -> None:
    out = seeded(seed, CenterCrop(1.0, side, (0.6, 1.3), border), sample)
    if out.fired == ():  # no window of that side around such a point holds the object
        assert out is sample
        return
    base = side or max(sample.size)
    assert out.size in ((int(0.6 * base),) * 2, (int(1.3 * base),) * 2)
    assert torch.equal(out.boxes[0], measured(out))


def test_a_center_crop_lies_around_points_away_from_the_edges() -> None:
    """Marks in the image's pixels tell where the window was; beyond the image is the fill."""
    rows, columns = torch.meshgrid(torch.arange(100), torch.arange(200), indexing="ij")
    image = torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    crop = CenterCrop(1.0, 120, (1.0,), 64)  # of 100 pixels 64 on both sides are none: 32
    tops, lefts = set(), set()
    for seed in range(200):
        out = seeded(seed, crop, sample).image
        seen = out[2] == 0
        top = int(out[0][seen].min()) - int(seen.any(1).nonzero()[0])
        left = int(out[1][seen].min()) - int(seen.any(0).nonzero()[0])
        assert int(seen.sum()) == (min(100, top + 120) - max(0, top)) * (
            min(200, left + 120) - max(0, left)
        )
        tops.add(top + 60)
        lefts.add(left + 60)
    assert (min(tops), max(tops)) == (32, 67)
    assert min(lefts) in (64, 65)
    assert max(lefts) in (134, 135)


def test_a_crop_keeps_centres_and_any_part_of_ignored_regions() -> None:
    boxes = torch.tensor(
        [[0, 0, 20, 20], [18, 18, 40, 40], [0, 0, 12, 12], [0, 0, 12, 12], [0, 0, 9, 9]]
    ).float()
    ignore = torch.tensor([False, False, False, True, True])
    image = torch.zeros(3, 50, 50, dtype=torch.uint8)
    cut = crop(Sample(image, boxes, torch.arange(5), ignore), top=9, left=9, height=30, width=30)
    assert cut.labels.tolist() == [0, 1, 3]
    assert cut.boxes.tolist() == [[0, 0, 11, 11], [9, 9, 30, 30], [0, 0, 3, 3]]
    assert cut.ignore.tolist() == [False, False, True]


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


@SETTINGS
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


def test_photometric_changes_colours_only() -> None:
    image = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
    sample = Sample(image, torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0]), torch.tensor([False]))
    outs = [seeded(seed, Photometric(1.0), sample) for seed in range(40)]
    for out in outs:
        assert torch.equal(out.boxes, sample.boxes)
        assert (out.fired == ("photometric",)) or torch.equal(out.image, image)
    assert sum(not torch.equal(out.image, image) for out in outs) >= 32
    assert all(seeded(seed, Photometric(0.0), sample).fired == () for seed in range(40))


def test_flip_probability() -> None:
    sample = Sample(
        torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(0, 4), *[torch.zeros(0)] * 2
    )
    count = sum(len(seeded(seed, Flip(0.25, 0.0), sample).fired) for seed in range(1000))
    assert 200 < count < 300
