"""Dropout: moments of the noise, none in evaluation, and the shift of the variance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.layers.dropout import DROPOUTS, Dropout

COUNT = 200_000
VARIANCES = {
    "bernoulli": lambda rate, beta: rate / (1 - rate),
    "gaussian": lambda rate, beta: rate / (1 - rate),
    "uniform": lambda rate, beta: beta**2 / 3,
}


def noise(part: Dropout) -> torch.Tensor:
    return part.train()(torch.ones(COUNT))


@pytest.mark.parametrize("name", DROPOUTS)
@settings(max_examples=10, deadline=None)
@given(rate=st.floats(0.02, 0.6), beta=st.floats(0.02, 1.0), seed=st.integers(0, 1000))
def test_moments(name: str, rate: float, beta: float, seed: int) -> None:
    torch.manual_seed(seed)
    drawn = noise(Dropout(name, rate=rate, beta=beta))
    variance = VARIANCES[name](rate, beta)
    assert drawn.mean().item() == pytest.approx(1, abs=6 * math.sqrt(variance / COUNT))
    assert drawn.var().item() == pytest.approx(variance, rel=0.1)
    if name == "bernoulli":
        assert drawn.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)], rel=1e-6)
        assert (drawn == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    elif name == "uniform":
        assert drawn.min() >= 1 - beta - 1e-6
        assert drawn.max() <= 1 + beta + 1e-6


@pytest.mark.parametrize("name", DROPOUTS)
def test_the_shift_of_the_variance_is_that_of_the_paper(name: str) -> None:
    """Ratio of the variances in evaluation and training of features of mean 0: 1 - rate for zeros
    (table 1 of the paper), 3 / (3 + beta^2) for uniform noise, which hardly shifts."""
    torch.manual_seed(0)
    x = torch.randn(COUNT)
    part = Dropout(name, rate=0.5, beta=0.1)
    ratio = (part.eval()(x).var() / part.train()(x).var()).item()
    assert ratio == pytest.approx(3 / 3.01 if name == "uniform" else 0.5, rel=0.02)


@pytest.mark.parametrize("name", DROPOUTS)
def test_evaluation_sees_no_noise(name: str) -> None:
    x = torch.randn(3, 4, 5, 6)
    part = Dropout(name, rate=0.5, beta=0.5).eval()
    assert torch.equal(part(x), x)


@pytest.mark.parametrize("name", DROPOUTS)
def test_gradient_is_the_noise_and_follows_the_seed(name: str) -> None:
    part = Dropout(name, rate=0.3, beta=0.3).train()
    draws = []
    for _ in range(2):
        torch.manual_seed(4)
        x = torch.full((1000,), 2.0, requires_grad=True)
        y = part(x)
        y.sum().backward()
        torch.testing.assert_close(x.grad, y.detach() / 2)
        draws.append(y.detach())
    assert torch.equal(*draws)


@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_half_precision_keeps_the_mean(name: str) -> None:
    """Noise drawn in bfloat16 would have steps of 0.008 around 1."""
    torch.manual_seed(0)
    y = Dropout(name, rate=0.1, beta=0.1).train()(torch.full((COUNT,), 3.3, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.float().mean().item() == pytest.approx(3.296875, abs=0.01)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="expected bernoulli, gaussian, uniform, got normal"):
        Dropout("normal", rate=0.1, beta=0.1)
