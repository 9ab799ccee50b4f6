"""Classification losses against torchvision, the formulas of the papers and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from detcli.losses.dense_sum import CPU_BLOCK
from tests.sections import CLASS_LOSSES, class_loss_of

OPTIONS = {
    "focal": {"alpha": 0.25, "gamma": 2.0, "label_smoothing": 0.0},
    "bce": {"label_smoothing": 0.0},
    "varifocal": {"negative_weight": 0.75, "gamma": 2.0},
    "quality_focal": {"gamma": 2.0},
}
each_loss = pytest.mark.parametrize("name", CLASS_LOSSES)


def loss_of(name: str, weight: float = 1.0, **options):
    return class_loss_of(name, weight=weight, **(OPTIONS[name] | options))


def focal(alpha: float = 0.25, gamma: float = 2.0, weight: float = 1.0, smoothing: float = 0.0):
    return loss_of("focal", weight, alpha=alpha, gamma=gamma, label_smoothing=smoothing)


def sample(rows: int, classes: int, seed: int = 0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) - 2).to(
        dtype
    )
    labels = torch.randint(0, 3 * classes, (rows,), generator=generator).clamp(max=classes)
    return logits.requires_grad_(), labels


def qualities(rows: int, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(
        dtype
    )


def peer(
    logits: torch.Tensor, labels: torch.Tensor, alpha: float, gamma: float, smoothing: float = 0.0
) -> torch.Tensor:
    """torchvision's focal loss, which takes soft targets."""
    targets = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    smoothed = targets * (1 - 2 * smoothing) + smoothing
    targets = torch.where((labels < logits.shape[1])[:, None], smoothed, targets)
    return sigmoid_focal_loss(logits, targets, alpha, gamma, "sum")


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("rows", "classes"), [(50, 1), (40, 80), (2 * CPU_BLOCK // 80 + 7, 80)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_equals_torchvision(rows: int, classes: int, gamma: float, smoothing: float) -> None:
    logits, labels = sample(rows, classes)
    loss = focal(0.3, gamma, 1.5, smoothing)(logits, labels)
    assert loss.shape == ()
    (got,) = torch.autograd.grad(loss, logits)
    assert got.shape == logits.shape
    double = logits.detach().double().requires_grad_()
    want = 1.5 * peer(double, labels, 0.3, gamma, smoothing)
    (want_grad,) = torch.autograd.grad(want, double)
    torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.double(), want_grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_bce_equals_torch(smoothing: float) -> None:
    logits, labels = sample(60, 7, dtype=torch.float64)
    targets = torch.zeros_like(logits)
    for row, label in enumerate(labels.tolist()):
        if label < 7:
            targets[row] = smoothing
            targets[row, label] = 1 - smoothing
    want = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    got = loss_of("bce", label_smoothing=smoothing)(logits, labels)
    torch.testing.assert_close(got, want)
    for mine, theirs in zip(
        torch.autograd.grad(got, logits), torch.autograd.grad(want, logits), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def plain(name: str, x: float, is_class: bool, q: float) -> float:
    """One entry as the papers write it."""
    p = 1 / (1 + math.exp(-x))
    y = q if is_class else 0.0
    entropy = -(y * math.log(p) + (1 - y) * math.log(1 - p))
    if name == "quality_focal":
        return abs(y - p) ** 2 * entropy
    if name == "varifocal":
        return q * entropy if is_class else 0.75 * p**2 * entropy
    if name == "bce":
        return -math.log(p if is_class else 1 - p)
    return -(0.25 * (1 - p) ** 2 * math.log(p) if is_class else 0.75 * p**2 * math.log(1 - p))


@each_loss
def test_equals_the_formula(name: str) -> None:
    logits, labels = sample(17, 3, seed=2, dtype=torch.float64)
    quality, weights = qualities(17, torch.float64), torch.arange(17).double()
    rows = []
    for row, label, q in zip(logits.tolist(), labels.tolist(), quality.tolist(), strict=True):
        rows.append(sum(plain(name, x, entry == label, q) for entry, x in enumerate(row)))
    loss = loss_of(name, 2.0)
    assert loss(logits, labels, quality).item() == pytest.approx(2 * sum(rows), rel=1e-12)
    assert loss.of_each_row(logits, labels, quality).tolist() == pytest.approx(
        [2 * r for r in rows]
    )
    want = 2 * sum(w * row for w, row in zip(weights.tolist(), rows, strict=True))
    assert loss(logits, labels, quality, weights).item() == pytest.approx(want, rel=1e-12)


@each_loss
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_gradient(name: str, gamma: float) -> None:
    logits, labels = sample(6, 4, dtype=torch.float64)
    quality, weights = qualities(6, torch.float64), torch.rand(6, dtype=torch.float64)
    loss = loss_of(name, 2.0, **({} if name == "bce" else {"gamma": gamma}))
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, quality, weights), logits)


@pytest.mark.parametrize("name", ["focal", "bce"])
def test_gradient_with_smoothing(name: str) -> None:
    logits, labels = sample(6, 4, dtype=torch.float64)
    loss = loss_of(name, label_smoothing=0.1)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)


@each_loss
def test_negative_labels_do_not_count(name: str) -> None:
    logits, labels = sample(60, 5)
    quality = qualities(60)
    labels[::3] = -2
    used = labels >= 0
    loss = loss_of(name)(logits, labels, quality)
    loss.backward()
    kept = logits.detach()[used].requires_grad_()
    want = loss_of(name)(kept, labels[used], quality[used])
    want.backward()
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(logits.grad[used], kept.grad)
    assert (logits.grad[~used] == 0).all()
    assert (loss_of(name).of_each_row(logits, labels, quality)[~used] == 0).all()


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(CLASS_LOSSES)),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_finite_at_any_logit(
    name: str, values, label: int, gamma: float, dtype: torch.dtype, q: float
) -> None:
    logits = torch.tensor(values)[:, None].expand(-1, 3).to(dtype).requires_grad_()
    labels = torch.full((len(values),), label)
    loss = loss_of(name, **({} if name == "bce" else {"gamma": gamma}))
    total = loss(logits, labels, torch.full((len(values),), q))
    (grad,) = torch.autograd.grad(total, logits)
    assert total.dtype == torch.float32
    assert grad.dtype == dtype
    assert total.isfinite()
    assert total >= 0
    assert grad.isfinite().all()
    if name == "focal":
        want = peer(logits.detach().double(), labels, 0.25, gamma)
        assert total.item() == pytest.approx(want.item(), rel=1e-5, abs=1e-30)


@each_loss
def test_the_best_prediction_is_the_target(name: str) -> None:
    """Descent from anywhere ends at the quality, or without one at the (smoothed) label."""
    quality = torch.tensor([0.3, 0.8])
    labels = torch.tensor([0, 1])
    logits = torch.zeros(2, 2, requires_grad=True)
    smoothing = {"bce": {"label_smoothing": 0.2}}.get(name, {})
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        loss_of(name, **smoothing)(logits, labels, quality).backward()
        optimizer.step()
    p = logits.detach().sigmoid()
    if name == "focal":
        assert (p.diagonal() > 0.9).all()
        return
    wanted = torch.tensor([0.8, 0.8]) if name == "bce" else quality
    torch.testing.assert_close(p.diagonal(), wanted, atol=0.02, rtol=0)
    assert p[0, 1] < 0.21
    assert p[1, 0] < 0.21


@each_loss
def test_half_precision_gradient_survives_the_loss_scale(name: str) -> None:
    labels, quality = torch.tensor([1]), torch.ones(1)
    logits = torch.full((1, 1), -7.0, dtype=torch.float16, requires_grad=True)
    (grad,) = torch.autograd.grad(loss_of(name)(logits, labels, quality) * 65536, logits)
    exact = torch.full((1, 1), -7.0, dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(loss_of(name)(exact, labels, quality) * 65536, exact)
    assert grad.item() == pytest.approx(want.item(), rel=2e-3)


@each_loss
def test_no_rows_give_zero_that_keeps_the_graph(name: str) -> None:
    source = torch.randn(5, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss = loss_of(name)(source[:0], none, torch.zeros(0), torch.zeros(0))
    loss.backward()
    assert loss.item() == 0
    assert source.grad is not None
    assert source.grad.abs().sum() == 0
    assert loss_of(name).of_each_row(source[:0], none, torch.zeros(0)).shape == (0,)


@each_loss
def test_backward_twice_and_without_gradient(name: str) -> None:
    logits, labels = sample(30, 5)
    quality = qualities(30)
    loss = loss_of(name)(logits, labels, quality)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(2 * loss, logits)
    assert torch.equal(2 * first, second)
    with torch.no_grad():
        assert loss_of(name)(logits, labels, quality).item() == loss.item()


@each_loss
def test_a_divisor_divides_loss_and_gradient(name: str) -> None:
    logits, labels = sample(30, 5)
    quality, weights = qualities(30), qualities(30) + 1
    loss = loss_of(name, weight=1.5)
    whole = loss(logits, labels, quality, weights)
    part = loss(logits, labels, quality, weights, torch.tensor(8.0))
    torch.testing.assert_close(part, whole / 8)
    (of_whole,) = torch.autograd.grad(whole, logits)
    (of_part,) = torch.autograd.grad(part, logits)
    torch.testing.assert_close(of_part, of_whole / 8)


@each_loss
def test_keeps_one_buffer_of_the_logits_size(name: str) -> None:
    logits, labels = sample(500, 80)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.nbytes) or t, lambda t: t
    ):
        labels[2:] = 80  # as in detectors, where few rows have an object
        loss_of(name)(logits, labels, qualities(500))
    assert sum(kept) <= logits.nbytes * 1.1


@each_loss
def test_shapes_are_checked(name: str) -> None:
    logits, labels = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="logits: expected shape"):
        loss_of(name)(logits[0], labels)
    with pytest.raises(ValueError, match="labels: expected shape"):
        loss_of(name)(logits, labels[:3])
    with pytest.raises(ValueError, match="quality: expected shape"):
        loss_of(name)(logits, labels, torch.zeros(3))
    with pytest.raises(ValueError, match="weights: expected shape"):
        loss_of(name)(logits, labels, torch.zeros(4), torch.zeros(3))
