"""Rectangles that are hidden."""

from __future__ import annotations

import torch

from detcli.data.transforms.cutout import Cutout, hide
from tests.data.transforms.augmenting import painted, seeded
from tests.data.transforms.scenes import noise


def test_hidden_objects_become_ignored() -> None:
    sample = painted((40, 40), [[0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10]], [False] * 3)
    out = hide(sample, [(0, 0, 14, 40)])
    assert out.ignore.tolist() == [True, False, False]  # 100 %, 40 % and 0 % hidden
    assert torch.equal(out.boxes, sample.boxes)
    assert (out.image[:, :, :14].float().std(dim=(1, 2)) == 0).all()
    assert torch.equal(out.image[:, :, 14:], sample.image[:, :, 14:])
    assert not sample.ignore.any()  # the input is as it was


def test_cutout_hides_at_most_what_it_says() -> None:
    sample = painted((40, 60), [], []).changed(image=noise())
    for seed in range(40):
        out = seeded(seed, Cutout(1.0, 1, 0.25), sample)
        changed = (out.image != sample.image).any(dim=0)
        rows, columns = torch.nonzero(changed, as_tuple=True)
        assert rows.max() - rows.min() < 10
        assert columns.max() - columns.min() < 10
