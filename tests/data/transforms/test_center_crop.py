"""CenterNet's crop: draw a rectangle, crop, and measure where it went."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from detcli.data.transforms import Sample
from detcli.data.transforms.center_crop import CenterCrop
from tests.data.transforms.augmenting import seeded
from tests.data.transforms.rectangles import MANY, marked_samples, measured_box


@MANY
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
    assert torch.equal(out.boxes[0], measured_box(out))


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
