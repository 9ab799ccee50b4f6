"""Centre-ness and its loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.losses import centerness_loss, centerness_target


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-100, 1000, width=32), min_size=4, max_size=4))
def test_centerness_equals_the_formula(ltrb: list[float]) -> None:
    got = centerness_target(torch.tensor([ltrb]))
    assert got.shape == (1,)
    left, top, right, bottom = ltrb
    if min(ltrb) > 1e-6:
        want = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
        assert got.item() == pytest.approx(want, rel=1e-5)
    else:
        assert 0 <= got.item() <= 1
        assert min(ltrb) > 0 or got.item() == 0


def test_centerness_loss() -> None:
    logits = torch.tensor([-1e4, 1e4, 0.3, -2.0], requires_grad=True)
    target = torch.tensor([0.5, 0.25, 0.7, 1.0])
    loss = centerness_loss(logits, target)
    p = [1 / (1 + math.exp(-x)) for x in (0.3, -2.0)]
    want = 0.5e4 + 0.75e4 - 0.7 * math.log(p[0]) - 0.3 * math.log(1 - p[0]) - math.log(p[1])
    assert loss.item() == pytest.approx(want, rel=1e-6)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()
    half = centerness_loss(logits.detach().half(), target)
    assert half.dtype == torch.float32
    empty = centerness_loss(logits[:0], target[:0])
    assert empty.item() == 0
    assert torch.autograd.grad(empty, logits)[0].abs().sum() == 0
    assert centerness_target(torch.zeros(0, 4)).shape == (0,)
    with pytest.raises(ValueError, match="target: expected shape"):
        centerness_loss(logits, target[:2])
