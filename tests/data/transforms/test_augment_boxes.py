"""Boxes follow pixels: paint every box in its own colour, augment, and measure where it went."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.data.transforms import Sample
from detcli.data.transforms.chips import Chips, cover, has_valid_size
from detcli.data.transforms.crop import SafeCrop
from detcli.data.transforms.mix import Mixup, Mosaic
from detcli.data.transforms.paste import CopyPaste, overlaps
from detcli.data.transforms.policy_ops import WHOLE_IMAGE
from tests.data.transforms.augmenting import FakePool, measured, painted, seeded

SETTINGS = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 10_000)


@st.composite
def scenes(draw: Any, num_max: int = 3, first: int = 0) -> Sample:
    """A black image with painted boxes that do not overlap, some of them ignored."""
    height, width = draw(st.integers(40, 90)), draw(st.integers(40, 90))
    cell_x, cell_y = width // 2, height // 2
    boxes, ignore = [], []
    for number in range(draw(st.integers(0, num_max))):
        left, top = number % 2 * cell_x, number // 2 * cell_y
        w, h = draw(st.integers(6, cell_x - 4)), draw(st.integers(6, cell_y - 4))
        x, y = (
            left + draw(st.integers(0, cell_x - w - 1)),
            top + draw(st.integers(0, cell_y - h - 1)),
        )
        boxes.append([x, y, x + w, y + h])
        ignore.append(draw(st.booleans()))
    return painted((height, width), boxes, ignore, first)


def agree(sample: Sample, tolerance: float) -> None:
    """Every box is where its paint is."""
    height, width = sample.size
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= torch.tensor([width, height] * 2)).all()
    for box, label in zip(sample.boxes, sample.labels.tolist(), strict=True):
        # A pixel of which less than half is covered is dark, so a narrow rest shows nothing.
        if (box[2:] - box[:2]).min() >= 3:
            assert torch.allclose(measured(sample, label), box, atol=tolerance), (label, box)


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
@SETTINGS
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


def whole(sample: Sample) -> torch.Tensor:
    """Boxes that no border cuts: of a cut slanted shape the visible part can be smaller."""
    height, width = sample.size
    inner = torch.tensor([width, height]) - 1
    return ((sample.boxes[:, :2] > 1) & (sample.boxes[:, 2:] < inner)).all(dim=1)


@SETTINGS
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


@SETTINGS
@given(
    sample=scenes(num_max=1),
    one=scenes(num_max=1, first=1),
    two=scenes(num_max=1, first=2),
    seed=SEEDS,
)
def test_boxes_follow_a_mosaic(sample: Sample, one: Sample, two: Sample, seed: int) -> None:
    pool = FakePool([one, two])
    out = seeded(seed, Mosaic(1.0, (0.5, 1.0)), sample, pool)
    assert out.size == sample.size
    assert out.fired == ("mosaic",)
    assert len(pool.loaded) == 3
    once = {0} | {label for label in (1, 2) if pool.loaded.count(label - 1) == 1}
    alone = [label in once for label in out.labels.tolist()]
    agree(out.keep(torch.tensor(alone, dtype=torch.bool)), 1.0)


def test_small_tiles_of_a_mosaic_touch_where_the_quarters_meet() -> None:
    white = painted((60, 60), [], []).changed(image=torch.full((3, 60, 60), 255, dtype=torch.uint8))
    for seed in range(20):
        out = seeded(seed, Mosaic(1.0, (0.2, 0.2)), white, FakePool([white]))
        rows, columns = torch.nonzero(out.image[0] == 255, as_tuple=True)
        assert len(rows) == 24 * 24  # one square of four images of a fifth of the canvas
        assert rows.max() - rows.min() == columns.max() - columns.min() == 23


@SETTINGS
@given(sample=scenes(), other=scenes(), seed=SEEDS)
def test_mixup_keeps_the_boxes_of_both(sample: Sample, other: Sample, seed: int) -> None:
    out = seeded(seed, Mixup(1.0, 1.5), sample, FakePool([other]))
    count = len(sample.boxes)
    assert out.size == sample.size
    assert torch.equal(out.boxes[:count], sample.boxes)
    assert out.ignore.tolist() == sample.ignore.tolist() + other.ignore.tolist()
    factor = min(out.size[0] / other.size[0], out.size[1] / other.size[1])
    assert torch.allclose(out.boxes[count:], other.boxes * factor, atol=2.0)
    assert (out.boxes[:, 2:] <= torch.tensor([out.size[1], out.size[0]]) + 1e-3).all()


def test_mixup_blends_by_the_drawn_share() -> None:
    bright = painted((20, 20), [], []).changed(
        image=torch.full((3, 20, 20), 200, dtype=torch.uint8)
    )
    dark = bright.changed(image=torch.full((3, 20, 20), 100, dtype=torch.uint8))
    shares = []
    for seed in range(400):
        value = seeded(seed, Mixup(1.0, 1.5), bright, FakePool([dark])).image.unique()
        assert len(value) == 1
        shares.append((value.item() - 100) / 100)
    shares = torch.tensor(shares)
    assert abs(shares.mean() - 0.5) < 0.04
    assert abs(shares.std() - 0.25) < 0.03  # of Beta(1.5, 1.5): sqrt(1 / 16)


@SETTINGS
@given(sample=scenes(), other=scenes(), seed=SEEDS)
def test_pasted_copies_overlap_nothing(sample: Sample, other: Sample, seed: int) -> None:
    out = seeded(seed, CopyPaste(1.0, 30.0, 3), sample, FakePool([other]))
    count = len(sample.boxes)
    assert torch.equal(out.boxes[:count], sample.boxes)
    assert len(out.boxes) <= count + 3
    assert not out.ignore[count:].any()
    assert (out.fired == ("copy_paste",)) == (len(out.boxes) > count)
    for row in range(count, len(out.boxes)):
        assert overlaps(out.boxes, out.boxes[row]).sum() == 1
        x, y = ((out.boxes[row, :2] + out.boxes[row, 2:]) / 2).int().tolist()
        assert out.image[out.labels[row], y, x] > 250


def test_a_copy_is_as_sharp_as_its_box() -> None:
    """The margin fades, the object does not: half the contrast is reached outside the box."""
    sample = painted((80, 80), [[8, 8, 20, 20]], [False])
    for seed in range(20):
        out = seeded(seed, CopyPaste(1.0, 16.0, 1), sample, FakePool([sample]))
        fresh = out.image.clone()
        fresh[:, :26, :26] = 0
        if (out.boxes[1] > 27).all():
            seen = measured(out.changed(image=fresh), 0)
            assert torch.allclose(seen, out.boxes[1], atol=1.0)


@SETTINGS
@given(sample=scenes(), seed=SEEDS, keep=st.sampled_from(["all", "one"]))
def test_a_crop_holds_objects_whole(sample: Sample, seed: int, keep: str) -> None:
    out = seeded(seed, SafeCrop(1.0, 0.2, keep), sample)
    sides = {
        label: (box[2:] - box[:2]).tolist()
        for box, label in zip(sample.boxes, sample.labels.tolist(), strict=True)
    }
    intact = [
        (box[2:] - box[:2]).tolist() == sides[label]
        for box, label in zip(out.boxes, out.labels.tolist(), strict=True)
        if not out.ignore[out.labels == label].any()
    ]
    objects = int((~sample.ignore).sum())
    if keep == "all":
        assert sum(intact) == objects
    else:
        assert sum(intact) >= min(objects, 1)


@SETTINGS
@given(sample=scenes(), seed=SEEDS, side=st.sampled_from([24, 40, 120]))
def test_chips_are_of_one_size_and_hold_valid_objects(sample: Sample, seed: int, side: int) -> None:
    valid = (0.1, 0.8)
    out = seeded(seed, Chips([side], valid, 0.3), sample)
    if not out.fired:
        assert not (has_valid_size(sample.boxes, side, valid) & ~sample.ignore).any()
        return
    assert out.size == (side, side)
    if out.fired == ("chip_negative",):
        assert len(out.boxes) == 0
        assert all(measured(out, label) is None for label in sample.labels.tolist())
        return
    sizes = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1).sqrt() / side
    for label, ignored in zip(out.labels.tolist(), out.ignore.tolist(), strict=True):
        if not ignored:
            assert valid[0] <= sizes[sample.labels == label] <= valid[1]
    assert (~out.ignore).any()


@SETTINGS
@given(
    boxes=st.lists(
        st.tuples(st.floats(0, 250), st.floats(0, 150), st.floats(2, 38), st.floats(2, 38)),
        min_size=1,
        max_size=20,
    )
)
def test_chips_cover_every_object(boxes: list[tuple[float, ...]]) -> None:
    table = torch.tensor(boxes, dtype=torch.float32)
    table[:, 2:] += table[:, :2]
    chips = cover(table, 40, (190, 290))
    held = torch.zeros(len(table), dtype=torch.bool)
    for left, top in chips:
        assert 0 <= left <= 250
        assert 0 <= top <= 150
        window = torch.tensor([left, top, left + 40, top + 40])
        held |= ((table[:, :2] >= window[:2]) & (table[:, 2:] <= window[2:])).all(dim=1)
    assert held.all()
    assert len(chips) <= len(table)


def test_a_chip_learns_whole_objects_of_valid_size_and_ignores_the_rest() -> None:
    """In chips of 40 pixels, 8 is valid and 30 is not; what is cut off at its centre neither."""
    boxes = [[46, 46, 54, 54], [60, 40, 90, 70], [0, 0, 8, 8]]
    sample = painted((100, 100), boxes, [False, False, True])
    kept = set()
    for seed in range(40):
        out = seeded(seed, Chips([40], (0.1, 0.4), 0.0), sample)
        assert out.fired == ("chip_positive",)
        assert out.labels[~out.ignore].tolist() == [0]
        kept |= set(out.labels[out.ignore].tolist())
    assert kept <= {1, 2}
    assert 1 in kept
    many = painted((100, 100), [[46, 46, 54, 54], [51, 46, 59, 54], [30, 46, 38, 54]], [False] * 3)
    for seed in range(10):  # 12 pixels hold one at a time, and cut the others
        out = seeded(seed, Chips([12], (0.1, 0.9), 0.0), many)
        for box in out.boxes[~out.ignore]:
            assert ((box[:2] + box[2:]) / 2 < 12).all()


def test_greedy_chips_are_few() -> None:
    """Two groups of three: one chip each, though each object alone would give six."""
    corners = [(5, 5), (20, 8), (12, 25), (150, 100), (160, 110), (171, 101)]
    boxes = torch.tensor([[x, y, x + 10, y + 10] for x, y in corners]).float()
    assert len(cover(boxes, 48, (160, 240))) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mosaic(1.0, (0.5, 1.0)),
        lambda: Mixup(1.0, 1.5),
        lambda: CopyPaste(1.0, 40.0, 2),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (2, 300), (20, 20)])
def test_mixing_tiny_images(make: Callable[[], Any], size: tuple[int, int]) -> None:
    empty = painted(size, [], [])
    pool = FakePool([empty, painted((50, 40), [[3, 3, 20, 30]], [False])])
    for seed in range(10):
        out = seeded(seed, make(), empty, pool)
        assert out.size == size
        assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()


def test_an_angle_is_what_it_says() -> None:
    """A box around the centre of a square image grows by cos + sin of the angle."""
    sample = painted((101, 101), [[30.5, 30.5, 70.5, 70.5]], [False])
    out = seeded(0, lambda value: WHOLE_IMAGE["rotate"](value, 1.0), sample)
    side = 40 * (math.cos(math.pi / 6) + math.sin(math.pi / 6))
    expected = torch.tensor([50.5 - side / 2] * 2 + [50.5 + side / 2] * 2)
    assert torch.allclose(out.boxes[0], expected, atol=1e-3)
