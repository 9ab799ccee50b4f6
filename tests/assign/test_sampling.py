"""The random sampler."""

from __future__ import annotations

import pytest
import torch

from detcli.assign import IGNORED, NEGATIVE, RandomSampler

pytestmark = pytest.mark.usefixtures("one_thread")


def test_sampler_keeps_its_share_and_its_number() -> None:
    matched = torch.full((400,), NEGATIVE)
    matched[:60] = torch.arange(60)
    matched[60:100] = IGNORED
    torch.manual_seed(0)
    sampler = RandomSampler(100, 0.25)
    first, second = sampler(matched), sampler(matched)
    for drawn in (first, second):
        assert (drawn >= 0).sum() == 25
        assert (drawn == NEGATIVE).sum() == 75
        kept = drawn != IGNORED
        assert torch.equal(drawn[kept], matched[kept])
    assert not torch.equal(first, second)
    few = torch.cat([matched[:3], matched[100:150]])
    drawn = sampler(few)
    assert (drawn >= 0).sum() == 3  # background fills the rest, as far as there is any
    assert (drawn == NEGATIVE).sum() == 50
    only_objects = sampler(matched[:60])
    assert (only_objects >= 0).sum() == 25
    torch.manual_seed(0)
    assert torch.equal(sampler(matched), first)
    assert torch.equal(RandomSampler(None, 0.25)(matched), matched)
