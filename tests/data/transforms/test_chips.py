"""Chips around objects of valid size."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from detcli.data.transforms import Sample
from detcli.data.transforms.chips import Chips, cover, has_valid_size
from tests.data.transforms.augmenting import measured, painted, seeded
from tests.data.transforms.scenes import FEW, SEEDS, scenes


@FEW
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


@FEW
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
