"""Mosaic and mixup: boxes follow pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given

from detcli.data.transforms import Sample
from detcli.data.transforms.mix import Mixup, Mosaic
from detcli.data.transforms.paste import CopyPaste
from tests.data.transforms.augmenting import FakePool, painted, seeded
from tests.data.transforms.scenes import FEW, SEEDS, agree, scenes


@FEW
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


@FEW
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


@pytest.mark.parametrize(
    "make",
    [lambda: Mosaic(1.0, (0.5, 1.0)), lambda: Mixup(1.0, 1.5), lambda: CopyPaste(1.0, 40.0, 2)],
)
@pytest.mark.parametrize("size", [(1, 1), (2, 300), (20, 20)])
def test_mixing_tiny_images(make: Callable[[], Any], size: tuple[int, int]) -> None:
    empty = painted(size, [], [])
    pool = FakePool([empty, painted((50, 40), [[3, 3, 20, 30]], [False])])
    for seed in range(10):
        out = seeded(seed, make(), empty, pool)
        assert out.size == size
        assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
