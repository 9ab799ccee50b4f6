"""Poisson blending of objects."""

from __future__ import annotations

import torch
from hypothesis import given

from detcli.data.transforms import Sample
from detcli.data.transforms.paste import overlaps
from detcli.data.transforms.poisson import Poisson
from tests.data.transforms.augmenting import FakePool, painted, seeded
from tests.data.transforms.scenes import FEW, SEEDS, agree, scenes


@FEW
@given(sample=scenes(num_max=1), other=scenes(num_max=1, first=1), seed=SEEDS)
def test_boxes_follow_poisson_blending(sample: Sample, other: Sample, seed: int) -> None:
    out = seeded(seed, Poisson(1.0, 1), sample, FakePool([other]))
    count = len(sample.boxes)
    assert torch.equal(out.boxes[:count], sample.boxes)
    assert (out.fired == ("poisson",)) == (len(out.boxes) == count + 1)
    assert not out.ignore[count:].any()
    agree(out, 1.0)
    for box in out.boxes:
        assert overlaps(out.boxes, box).sum() == 1


def test_poisson_takes_as_many_as_it_says_of_one_image() -> None:
    sample = painted((200, 200), [], [])
    other = painted((60, 60), [[10, 10, 20, 20], [40, 40, 50, 50]], [False, True])
    found = [seeded(seed, Poisson(1.0, 3), sample, FakePool([other])) for seed in range(20)]
    assert max(len(out.boxes) for out in found) == 3
    assert all(out.labels.tolist() == [0] * len(out.labels) for out in found)  # never the ignored
    assert all(((out.boxes[:, 2:] - out.boxes[:, :2]) <= 12.01).all() for out in found)
    assert seeded(0, Poisson(0.0, 3), sample, FakePool([other])) is sample
    assert seeded(0, Poisson(1.0, 3), sample, FakePool([sample])) is sample
