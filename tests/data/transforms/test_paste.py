"""Pasted copies."""

from __future__ import annotations

import torch
from hypothesis import given

from detcli.data.transforms import Sample
from detcli.data.transforms.paste import CopyPaste, overlaps
from tests.data.transforms.augmenting import FakePool, measured, painted, seeded
from tests.data.transforms.scenes import FEW, SEEDS, scenes


@FEW
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
