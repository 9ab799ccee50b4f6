"""Focal loss against torchvision, the formula of the paper and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from detcli.losses import build_class_loss
from detcli.losses.classification import CPU_BLOCK


def focal(alpha: float = 0.25, gamma: float = 2.0, weight: float = 1.0):
    return build_class_loss("focal", alpha=alpha, gamma=gamma, weight=weight)


def sample(rows: int, classes: int, seed: int = 0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) - 2).to(
        dtype
    )
    labels = torch.randint(0, 3 * classes, (rows,), generator=generator).clamp(max=classes)
    return logits.requires_grad_(), labels


def peer(logits: torch.Tensor, labels: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    targets = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    return sigmoid_focal_loss(logits, targets, alpha, gamma, "sum")


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("rows", "classes"), [(50, 1), (40, 80), (2 * CPU_BLOCK // 80 + 7, 80)])
def test_equals_torchvision(rows: int, classes: int, gamma: float) -> None:
    logits, labels = sample(rows, classes)
    loss = focal(0.3, gamma, 1.5)(logits, labels)
    assert loss.shape == ()
    (got,) = torch.autograd.grad(loss, logits)
    assert got.shape == logits.shape
    double = logits.detach().double().requires_grad_()
    want = 1.5 * peer(double, labels, 0.3, gamma)
    (want_grad,) = torch.autograd.grad(want, double)
    torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.double(), want_grad, rtol=1e-5, atol=1e-7)


def test_negative_labels_do_not_count() -> None:
    logits, labels = sample(60, 5)
    labels[::3] = -2
    used = labels >= 0
    loss = focal()(logits, labels)
    loss.backward()
    kept = logits.detach()[used].requires_grad_()
    want = focal()(kept, labels[used])
    want.backward()
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(logits.grad[used], kept.grad)
    assert (logits.grad[~used] == 0).all()


def test_equals_the_formula() -> None:
    logits, labels = sample(7, 3, seed=2, dtype=torch.float64)
    want = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for entry, x in enumerate(row):
            p = 1 / (1 + math.exp(-x))
            if entry == label:
                want -= 0.25 * (1 - p) ** 2 * math.log(p)
            else:
                want -= 0.75 * p**2 * math.log(1 - p)
    assert focal()(logits, labels).item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_gradient(gamma: float) -> None:
    logits, labels = sample(6, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: focal(0.3, gamma, 2.0)(x, labels), logits)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_finite_at_any_logit(values, label: int, gamma: float, dtype: torch.dtype) -> None:
    logits = torch.tensor(values)[:, None].expand(-1, 3).to(dtype).requires_grad_()
    labels = torch.full((len(values),), label)
    loss = focal(0.25, gamma)(logits, labels)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.dtype == torch.float32
    assert grad.dtype == dtype
    assert loss.isfinite()
    assert loss >= 0
    assert grad.isfinite().all()
    want = peer(logits.detach().double(), labels, 0.25, gamma)
    assert loss.item() == pytest.approx(want.item(), rel=1e-5, abs=1e-30)


def test_half_precision_gradient_survives_the_loss_scale() -> None:
    logits = torch.full((1, 1), -7.0, dtype=torch.float16, requires_grad=True)
    loss = focal()(logits, torch.tensor([1])) * 65536
    (grad,) = torch.autograd.grad(loss, logits)
    exact = torch.full((1, 1), -7.0, dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(focal()(exact, torch.tensor([1])) * 65536, exact)
    assert grad.item() == pytest.approx(want.item(), rel=2e-3)


def test_no_rows_give_zero_that_keeps_the_graph() -> None:
    source = torch.randn(5, 4, requires_grad=True)
    loss = focal()(source[:0], torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert source.grad is not None
    assert source.grad.abs().sum() == 0


def test_backward_twice_and_without_gradient() -> None:
    logits, labels = sample(30, 5)
    loss = focal()(logits, labels)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(2 * loss, logits)
    assert torch.equal(2 * first, second)
    with torch.no_grad():
        assert focal()(logits, labels).item() == loss.item()


def test_keeps_one_buffer_of_the_logits_size() -> None:
    logits, labels = sample(500, 80)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.nbytes) or t, lambda t: t
    ):
        focal()(logits, labels)
    assert sum(kept) <= logits.nbytes + 64


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="labels: expected shape"):
        focal()(torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64))
