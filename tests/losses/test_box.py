"""Box losses and centre-ness against torchvision, the papers' formulas and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, generalized_box_iou_loss

from detcli.losses import BOX_LOSSES, build_box_loss, centerness_loss, centerness_target


def boxes(rows: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(rows, 4, generator=generator, dtype=torch.float64).to(dtype)
    return torch.cat([50 * u[:, :2], 50 * u[:, :2] + 5 + 60 * u[:, 2:]], dim=1)


def loss_of(name: str, weight: float = 1.0, beta: float = 0.11):
    return build_box_loss(name, weight=weight, beta=beta)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_contract(name: str) -> None:
    loss = loss_of(name)
    assert loss.on_boxes is (name in ("iou", "giou"))
    pred, target, weights = boxes(9, 1).requires_grad_(), boxes(9, 2), torch.rand(9)
    each = torch.stack([loss(pred[i : i + 1], target[i : i + 1], None) for i in range(9)])
    got = loss_of(name, weight=2.5)(pred, target, weights)
    assert got.shape == ()
    torch.testing.assert_close(got, 2.5 * (each * weights).sum())
    torch.testing.assert_close(loss(pred, target, None), each.sum())
    assert loss(target, target, None).item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="target: expected shape"):
        loss(pred, target[:3], None)
    with pytest.raises(ValueError, match="weights: expected shape"):
        loss(pred, target, weights[:3])


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_gradient(name: str) -> None:
    pred = boxes(8, 1, torch.float64).requires_grad_()
    target, weights = boxes(8, 2, torch.float64), torch.rand(8, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: loss_of(name, 1.5, 7.0)(x, target, weights), pred, atol=1e-6
    )


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_no_rows_give_zero_that_keeps_the_graph(name: str) -> None:
    source = boxes(3).requires_grad_()
    for weights in (None, torch.zeros(0)):
        loss = loss_of(name)(source[:0], torch.zeros(0, 4), weights)
        (grad,) = torch.autograd.grad(loss, source)
        assert loss.item() == 0
        assert grad.abs().sum() == 0


side = st.floats(-1e4, 1e4, width=16)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(BOX_LOSSES)),
    st.lists(side, min_size=4, max_size=4),
    st.lists(side, min_size=4, max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_finite_for_any_boxes(name: str, a, b, dtype: torch.dtype) -> None:
    """Also for predictions without area or turned inside out; and never below zero for others."""
    target = torch.tensor([[min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]])
    pred = torch.tensor([a]).to(dtype).requires_grad_()
    loss = loss_of(name)(pred, target, None)
    (grad,) = torch.autograd.grad(loss, pred)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    # a thin box has slopes of 1 / its side: more than float16 can hold
    assert dtype == torch.float16 or grad.isfinite().all()
    if a[0] <= a[2] and a[1] <= a[3]:
        assert loss >= -1e-6


def test_giou_equals_torchvision() -> None:
    pred, target = boxes(200, 1).requires_grad_(), boxes(200, 2)
    want = generalized_box_iou_loss(pred, target, reduction="sum")
    got = loss_of("giou")(pred, target, None)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    for mine, theirs in zip(
        torch.autograd.grad(got, pred), torch.autograd.grad(want, pred), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_iou_equals_minus_log_of_torchvisions_iou() -> None:
    pred, target = boxes(200, 1), boxes(200, 2)
    want = -box_iou(pred, target).diagonal().clamp(min=1e-6).log().sum()
    torch.testing.assert_close(loss_of("iou")(pred, target, None), want, rtol=1e-6, atol=0)
    apart = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[5.0, 5.0, 6.0, 6.0]])
    assert loss_of("iou")(*apart, None).item() == pytest.approx(-math.log(1e-6), rel=1e-6)


def test_l1_and_smooth_l1() -> None:
    pred, target = boxes(50, 1), boxes(50, 2)
    got = loss_of("smooth_l1", beta=3.0)(pred, target, None)
    want = 0.0
    for x in (pred - target).abs().flatten().tolist():
        want += 0.5 * x * x / 3 if x < 3 else x - 1.5
    assert got.item() == pytest.approx(want, rel=1e-6)
    l1 = F.l1_loss(pred, target, reduction="sum")
    torch.testing.assert_close(loss_of("l1")(pred, target, None), l1)
    torch.testing.assert_close(loss_of("smooth_l1", beta=0.0)(pred, target, None), l1)


@settings(max_examples=200, deadline=None)
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
