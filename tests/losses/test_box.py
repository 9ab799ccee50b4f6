"""Box losses and centre-ness against torchvision, the papers' formulas and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import (
    box_iou,
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

from detcli.losses import BOX_LOSSES, CODE_LOSSES
from tests.sections import box_loss_of

OVERLAP_LOSSES = [name for name in BOX_LOSSES if name not in CODE_LOSSES]


OPTIONS = {"beta": 0.11, "form": "log", "gamma": 0.5}


def boxes(rows: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(rows, 4, generator=generator, dtype=torch.float64).to(dtype)
    return torch.cat([50 * u[:, :2], 50 * u[:, :2] + 5 + 60 * u[:, 2:]], dim=1)


def loss_of(name: str, weight: float = 1.0, **options):
    return box_loss_of(name, weight=weight, **(OPTIONS | options))


def single(name: str, pred, target, **options) -> float:
    pair = (torch.tensor([pred], dtype=torch.float64), torch.tensor([target], dtype=torch.float64))
    return loss_of(name, **options)(*pair, None).item()


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_contract(name: str) -> None:
    loss = loss_of(name)
    assert loss.on_boxes is (name in OVERLAP_LOSSES)
    pred, target, weights = boxes(9, 1).requires_grad_(), boxes(9, 2), torch.rand(9)
    each = torch.stack([loss(pred[i : i + 1], target[i : i + 1], None) for i in range(9)])
    got = loss_of(name, weight=2.5)(pred, target, weights)
    assert got.shape == ()
    torch.testing.assert_close(got, 2.5 * (each * weights).sum())
    torch.testing.assert_close(loss(pred, target, None), each.sum())
    assert loss(target, target, None).item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="pred: expected shape"):
        loss(pred[:, :3], target, None)
    with pytest.raises(ValueError, match="target: expected shape"):
        loss(pred, target[:3], None)
    with pytest.raises(ValueError, match="weights: expected shape"):
        loss(pred, target, weights[:3])


@pytest.mark.parametrize(
    "name", [name for name in BOX_LOSSES if name not in ("ciou", "focal_eiou")]
)
def test_gradient(name: str) -> None:
    pred = boxes(8, 1, torch.float64).requires_grad_()
    target, weights = boxes(8, 2, torch.float64), torch.rand(8, dtype=torch.float64)
    loss = loss_of(name, 1.5, beta=7.0, form="linear")
    assert torch.autograd.gradcheck(lambda x: loss(x, target, weights), pred, atol=1e-6)


def test_gradient_with_the_factors_held_constant() -> None:
    """alpha of CIoU and the weight of Focal-EIoU do not take part in the gradient."""
    pred, target = boxes(8, 1, torch.float64).requires_grad_(), boxes(8, 2, torch.float64)

    def sides(x):
        return (x[:, 2:] - x[:, :2]).unbind(1)

    def angle_difference(x):
        (width, height), (wanted_width, wanted_height) = sides(x), sides(target)
        return (
            4
            / math.pi**2
            * (torch.atan(wanted_width / wanted_height) - torch.atan(width / height)).square()
        )

    v = angle_difference(pred).detach()
    iou = box_iou(pred, target).diagonal().detach()
    (got,) = torch.autograd.grad(loss_of("ciou")(pred, target, None), pred)
    constant = (v / (1 - iou + v) * angle_difference(pred)).sum()
    (want,) = torch.autograd.grad(loss_of("diou")(pred, target, None) + constant, pred)
    torch.testing.assert_close(got, want)

    (got,) = torch.autograd.grad(loss_of("focal_eiou", gamma=1.3)(pred, target, None), pred)
    (want,) = torch.autograd.grad(loss_of("eiou")(pred, target, iou**1.3), pred)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_no_rows_give_zero_that_keeps_the_graph(name: str) -> None:
    source = boxes(3).requires_grad_()
    for weights in (None, torch.zeros(0)):
        loss = loss_of(name)(source[:0], torch.zeros(0, 4), weights)
        (grad,) = torch.autograd.grad(loss, source)
        assert loss.item() == 0
        assert grad.abs().sum() == 0


side = st.floats(-1e4, 1e4, width=16) | st.sampled_from([0.0, 1.0, 1e-4, 1e4])


@settings(max_examples=150, deadline=None)
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


DEGENERATE = {
    "identical": ([3, 4, 30, 20], [3, 4, 30, 20]),
    "identical points": ([3, 4, 3, 4], [3, 4, 3, 4]),
    "no width": ([5, 4, 5, 20], [3, 4, 30, 20]),
    "two without width": ([5, 4, 5, 20], [5, 8, 5, 25]),
    "disjoint": ([0, 0, 10, 10], [20, 20, 30, 30]),
    "far apart": ([0, 0, 1, 1], [9e3, 9e3, 9e3 + 1, 9e3 + 1]),
}


# what each loss is at most, when boxes are as bad as can be
LARGEST = {"iou": -math.log(1e-6), "giou": 2, "diou": 2, "ciou": 3, "eiou": 4, "focal_eiou": 0}


@pytest.mark.parametrize("name", OVERLAP_LOSSES)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_boxes(name: str, case: str) -> None:
    pred = torch.tensor([DEGENERATE[case][0]], dtype=torch.float32, requires_grad=True)
    loss = loss_of(name)(pred, torch.tensor([DEGENERATE[case][1]], dtype=torch.float32), None)
    (grad,) = torch.autograd.grad(loss, pred)
    assert grad.isfinite().all()
    assert loss <= LARGEST[name] + 1e-5
    if case == "identical":
        assert loss.item() == pytest.approx(0, abs=1e-6)
    if name in ("giou", "diou", "ciou", "eiou") and case in ("disjoint", "far apart"):
        assert loss > 1
        assert (grad < 0).any()  # moves towards the object, where IoU alone is flat


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(OVERLAP_LOSSES),
    st.integers(0, 1000),
    st.floats(0.1, 50),
    st.tuples(st.floats(-100, 100), st.floats(-100, 100)),
)
def test_overlap_losses_do_not_depend_on_scale_and_place(name, seed, scale, shift) -> None:
    pred, target = boxes(5, seed, torch.float64), boxes(5, seed + 1, torch.float64)
    moved = torch.tensor([*shift, *shift], dtype=torch.float64)
    want = loss_of(name)(pred, target, None)
    got = loss_of(name)(pred * scale + moved, target * scale + moved, None)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    flipped = [x[:, [1, 0, 3, 2]] for x in (pred, target)]
    torch.testing.assert_close(loss_of(name)(*flipped, None), want, rtol=1e-9, atol=1e-9)


PEERS = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


@pytest.mark.parametrize("name", PEERS)
def test_equals_torchvision(name: str) -> None:
    pred, target = boxes(200, 1).requires_grad_(), boxes(200, 2)
    want = PEERS[name](pred, target, reduction="sum")
    got = loss_of(name)(pred, target, None)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    for mine, theirs in zip(
        torch.autograd.grad(got, pred), torch.autograd.grad(want, pred), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_both_forms_of_iou_equal_torchvisions_iou() -> None:
    pred, target = boxes(200, 1), boxes(200, 2)
    iou = box_iou(pred, target).diagonal()
    want = -iou.clamp(min=1e-6).log().sum()
    torch.testing.assert_close(loss_of("iou")(pred, target, None), want, rtol=1e-6, atol=0)
    linear = loss_of("iou", form="linear")(pred, target, None)
    torch.testing.assert_close(linear, (1 - iou).sum(), rtol=1e-6, atol=0)
    apart = [0, 0, 1, 1], [5, 5, 6, 6]
    assert single("iou", *apart) == pytest.approx(-math.log(1e-6), rel=1e-6)
    assert single("iou", *apart, form="linear") == 1


def plain_eiou(a: list[float], b: list[float]) -> tuple[float, float]:
    """IoU, and the loss as the paper (arXiv 2101.08158) writes it: overlap, centres, sides."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    iou = width * height / (sum(areas) - width * height)
    hull_width = max(a[2], b[2]) - min(a[0], b[0])
    hull_height = max(a[3], b[3]) - min(a[1], b[1])
    across = (a[0] + a[2] - b[0] - b[2]) / 2
    down = (a[1] + a[3] - b[1] - b[3]) / 2
    wider = (a[2] - a[0]) - (b[2] - b[0])
    higher = (a[3] - a[1]) - (b[3] - b[1])
    loss = (
        1
        - iou
        + (across**2 + down**2) / (hull_width**2 + hull_height**2)
        + wider**2 / hull_width**2
        + higher**2 / hull_height**2
    )
    return iou, loss


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_eiou_and_focal_eiou_equal_the_paper(gamma: float) -> None:
    pred, target = boxes(60, 1, torch.float64), boxes(60, 2, torch.float64)
    pairs = [plain_eiou(a, b) for a, b in zip(pred.tolist(), target.tolist(), strict=True)]
    assert loss_of("eiou")(pred, target, None).item() == pytest.approx(sum(x for _, x in pairs))
    want = sum(iou**gamma * loss for iou, loss in pairs)
    got = loss_of("focal_eiou", gamma=gamma)(pred, target, None)
    assert got.item() == pytest.approx(want, rel=1e-9)


def test_focal_eiou_pulls_boxes_of_low_overlap_towards_their_object() -> None:
    """With the weight inside the gradient, this step would lower the IoU."""
    pred = torch.tensor([[7.0, 0.0, 17.0, 10.0]], requires_grad=True)
    target = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    (grad,) = torch.autograd.grad(loss_of("focal_eiou", gamma=2.0)(pred, target, None), pred)
    step = (pred - 0.1 * grad).detach()
    assert box_iou(step, target) > box_iou(pred, target)


def test_closed_forms() -> None:
    """A square of side 2 around the same centre as one of side 4, and one beside it."""
    inner, outer = [1, 1, 3, 3], [0, 0, 4, 4]
    assert single("giou", inner, outer) == pytest.approx(0.75)
    assert single("diou", inner, outer) == pytest.approx(0.75)
    assert single("ciou", inner, outer) == pytest.approx(0.75)
    assert single("eiou", inner, outer) == pytest.approx(0.75 + 2 * 0.25)
    assert single("focal_eiou", inner, outer) == pytest.approx(0.5 * 1.25)
    beside = [4, 0, 8, 4]
    assert single("giou", beside, outer) == pytest.approx(1)
    assert single("diou", beside, outer) == pytest.approx(1 + 16 / 80)
    assert single("eiou", beside, outer) == pytest.approx(1 + 16 / 80)
    flat, upright = [0, 1, 4, 3], [1, 0, 3, 4]  # angles atan 2 and atan 1/2
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    loss = 1 - 1 / 3
    assert single("diou", flat, upright) == pytest.approx(loss)
    assert single("ciou", flat, upright) == pytest.approx(loss + v * v / (loss + v))


def test_l1_l2_and_smooth_l1() -> None:
    pred, target = boxes(50, 1), boxes(50, 2)
    got = loss_of("smooth_l1", beta=3.0)(pred, target, None)
    want = 0.0
    for x in (pred - target).abs().flatten().tolist():
        want += 0.5 * x * x / 3 if x < 3 else x - 1.5
    assert got.item() == pytest.approx(want, rel=1e-6)
    l1 = F.l1_loss(pred, target, reduction="sum")
    torch.testing.assert_close(loss_of("l1")(pred, target, None), l1)
    l2 = F.mse_loss(pred, target, reduction="sum")
    torch.testing.assert_close(loss_of("l2")(pred, target, None), l2)
    far_side = loss_of("smooth_l1", beta=1e6)(pred, target, None) * 2e6
    torch.testing.assert_close(far_side, l2)
