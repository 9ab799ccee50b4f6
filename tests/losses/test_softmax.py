"""Soft-max losses against torch, plain loops written from the papers, and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.sections import SOFTMAX_LOSSES, class_loss_of

CLASSES = 3  # label 3 is background, negative labels do not count
CHOICES = [
    ("softmax", {"label_smoothing": 0.0}),
    ("softmax", {"label_smoothing": 0.2}),
    ("am_softmax", {"margin": 0.35, "scale": 30.0}),
]
each_choice = pytest.mark.parametrize(("name", "options"), CHOICES, ids=str)


def rows(count: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits (count, 4) and labels of classes, background and ignored rows."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(count, CLASSES + 1, generator=generator, dtype=torch.float64) * 3
    labels = torch.arange(count) % (CLASSES + 2) - 1
    return logits.to(dtype), labels


def test_the_choices_are_all() -> None:
    assert {name for name, _ in CHOICES} == set(SOFTMAX_LOSSES)


def test_softmax_is_the_cross_entropy_of_torch() -> None:
    logits, labels = rows()
    loss = class_loss_of("softmax", weight=2.0, label_smoothing=0.0)
    counted = labels >= 0
    want = 2 * F.cross_entropy(logits[counted], labels[counted], reduction="sum")
    torch.testing.assert_close(loss(logits, labels), want)


def test_smoothing_is_that_of_torch_where_there_is_an_object() -> None:
    logits, labels = rows()
    loss = class_loss_of("softmax", weight=1.0, label_smoothing=0.2)
    smoothed = (labels >= 0) & (labels < CLASSES)
    plain = labels == CLASSES
    want = F.cross_entropy(
        logits[smoothed], labels[smoothed], reduction="sum", label_smoothing=0.2
    ) + F.cross_entropy(logits[plain], labels[plain], reduction="sum")
    torch.testing.assert_close(loss(logits, labels), want)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=CLASSES + 1, max_size=CLASSES + 1),
    st.integers(0, CLASSES),
    st.floats(0, 1),
    st.floats(1, 40),
)
def test_am_softmax_is_equation_6(
    cosines: list[float], label: int, margin: float, scale: float
) -> None:
    own = margin if label < CLASSES else 0.0
    others = sum(math.exp(scale * cosine) for place, cosine in enumerate(cosines) if place != label)
    top = math.exp(scale * (cosines[label] - own))
    want = -math.log(top / (top + others))
    loss = class_loss_of("am_softmax", weight=1.0, margin=margin, scale=scale)
    logits = scale * torch.tensor([cosines], dtype=torch.float64)
    assert loss(logits, torch.tensor([label])).item() == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_by_hand() -> None:
    """Two equal cosines: a margin of 0.5 at scale 4 makes e^-2 against 1."""
    loss = class_loss_of("am_softmax", weight=1.0, margin=0.5, scale=4.0)
    logits = torch.full((1, 2), 1.7)
    assert loss(logits, torch.tensor([0])).item() == pytest.approx(math.log(1 + math.exp(2)))
    assert loss(logits, torch.tensor([1])).item() == pytest.approx(math.log(2))


@each_choice
def test_rows_weights_and_dtypes(name: str, options: dict[str, float]) -> None:
    loss = class_loss_of(name, weight=1.5, **options)
    logits, labels = rows()
    each = loss.of_each_row(logits, labels)
    assert (each[labels < 0] == 0).all()
    assert (each[labels >= 0] > 0).all()
    torch.testing.assert_close(loss(logits, labels), each.sum())
    weights = torch.rand(len(labels), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(logits, labels, None, weights), (each * weights).sum())
    half = loss(logits.to(torch.bfloat16), labels)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(each.sum().item(), rel=0.02)


@each_choice
def test_gradients(name: str, options: dict[str, float]) -> None:
    loss = class_loss_of(name, weight=1.0, **options)
    logits, labels = rows(6)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())
    extreme = torch.tensor([[1e4, -1e4, 0.0, 1e4]] * 2, requires_grad=True)
    loss(extreme, torch.tensor([1, CLASSES])).backward()
    assert extreme.grad.isfinite().all()


@each_choice
def test_no_rows_and_wrong_shapes(name: str, options: dict[str, float]) -> None:
    loss = class_loss_of(name, weight=1.0, **options)
    none = torch.zeros(0, CLASSES + 1, requires_grad=True)
    total = loss(none, torch.zeros(0, dtype=torch.int64))
    total.backward()
    assert total == 0
    assert none.grad.shape == (0, CLASSES + 1)
    logits, labels = rows()
    with pytest.raises(ValueError, match=r"labels: expected shape \(12\)"):
        loss(logits, labels[:3])
    with pytest.raises(ValueError, match=r"weights: expected shape \(12\)"):
        loss(logits, labels, None, torch.ones(3))
