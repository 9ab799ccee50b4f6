"""The KL loss against its formula, and what its variances mean."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detcli.losses import KLLoss, build_side_loss
from detcli.losses.box import MAX_LOG_VARIANCE, deviation
from detcli.models.dense.matching import Matches
from detcli.models.dense.terms import box_term, build_criterion
from detcli.ops.coders import BoxCoder, DeltaCoder, DistanceCoder
from detcli.ops.priors import Priors
from tests.models.specs import section

numbers = st.floats(-9, 9, allow_nan=False, width=32)
sides = st.lists(st.tuples(numbers, numbers), min_size=4, max_size=12)


def written_out(error: float, alpha: float) -> tuple[float, float, float]:
    """Equations 9 and 10, with the derivatives by the error and by alpha."""
    scale = math.exp(-alpha)
    if abs(error) > 1:
        value, slope = scale * (abs(error) - 0.5), scale * math.copysign(1, error)
    else:
        value, slope = scale / 2 * error**2, scale * error
    return value + alpha / 2, slope, -value + 0.5


@settings(max_examples=40, deadline=None)
@given(sides, st.floats(0.1, 4))
def test_the_loss_and_its_slopes_are_the_papers(found: list[tuple[float, float]], w: float) -> None:
    found = found[: len(found) // 4 * 4]
    errors, alpha = (
        torch.tensor(column, dtype=torch.float64).view(-1, 4).requires_grad_()
        for column in zip(*found, strict=True)
    )
    weights = torch.linspace(0.5, 2.0, len(errors), dtype=torch.float64)
    total = KLLoss(w)(errors, alpha, weights)
    wanted = torch.tensor([written_out(*pair) for pair in found], dtype=torch.float64)
    wanted = wanted.view(-1, 4, 3) * weights[:, None, None] * w
    torch.testing.assert_close(total, wanted[..., 0].sum())
    to_errors, to_alpha = torch.autograd.grad(total, [errors, alpha])
    torch.testing.assert_close(to_errors, wanted[..., 1])
    torch.testing.assert_close(to_alpha, wanted[..., 2])


def test_no_samples_and_wild_variances() -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    total = KLLoss(1.0)(nothing, nothing, None)
    assert total == 0
    assert torch.autograd.grad(total, nothing)[0].shape == (0, 4)
    wild = torch.tensor([[-1e4, 1e4, -200.0, 90.0]], requires_grad=True)
    total = build_side_loss("kl", weight=1.0)(torch.ones(1, 4), wild, None)
    assert total.isfinite()
    assert torch.autograd.grad(total, wild)[0].isfinite().all()
    limits = torch.tensor([-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE])
    assert torch.equal(deviation(wild)[0, :2], (limits / 2).exp())


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="alpha"):
        KLLoss(1.0)(torch.zeros(2, 4), torch.zeros(1, 4), None)
    with pytest.raises(ValueError, match="weights"):
        KLLoss(1.0)(torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(3))


CODERS = [
    DeltaCoder((0.1, 0.1, 0.2, 0.2)),
    DeltaCoder(),
    DistanceCoder(stride_units=True),
    DistanceCoder(stride_units=False),
]


@pytest.mark.parametrize("coder", CODERS, ids=["stds", "deltas", "strides", "pixels"])
def test_the_minimum_is_the_deviation_of_the_sides_in_pixels(coder: BoxCoder) -> None:
    """Monte Carlo: boxes whose sides lie normally around the predicted ones teach alpha their
    standard deviations, each side its own, whatever the coder regresses."""
    generator = torch.Generator().manual_seed(0)
    count = 20_000
    anchor = torch.tensor([[40.0, 60, 72, 84]]).expand(count, 4)
    centers = (anchor[:, :2] + anchor[:, 2:]) / 2
    priors = Priors(anchor, centers, torch.full((count,), 16.0), (count,))
    box = torch.tensor([36.0, 58, 74, 90])
    stds = torch.tensor([0.4, 0.3, 0.8, 0.5])  # pixels: errors stay where the loss is a square
    objects = box + torch.randn(count, 4, generator=generator) * stds
    encoded = coder.encode(box.expand(count, 4), priors)
    rows = torch.arange(count)
    matches = Matches(rows[None], rows, rows, objects, torch.ones(count), torch.tensor([count]))
    criterion = kl_criterion()
    alpha = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.LBFGS([alpha], max_iter=40, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        every = alpha.expand(count, 4)
        total = box_term(criterion, coder, encoded, matches, priors, alpha=every) / count
        total.backward()
        return total

    optimizer.step(loss)
    found = deviation(alpha.detach()) * coder.side_units(priors)[0]
    torch.testing.assert_close(found, (objects - box).std(dim=0), rtol=0.01, atol=0)


def kl_criterion():
    keywords = section("atss", {"box_loss": {"name": "kl"}})
    keys = ("assigner", "enlarge_small", "class_loss", "box_loss")
    return build_criterion(**{key: keywords[key] for key in keys})


def test_the_slope_reaches_what_the_head_regresses() -> None:
    """A wide, uncertain side pulls its box less than a certain one."""
    prior = torch.tensor([[0.0, 0, 16, 16]])
    priors = Priors(prior, torch.tensor([[8.0, 8]]), torch.tensor([16.0]), (1,))
    row = torch.zeros(1, dtype=torch.int64)
    objects = torch.tensor([[2.0, 0, 18, 16]])  # to be shifted by an eighth of the anchor
    matches = Matches(row[None], row, row, objects, torch.ones(1), torch.ones(1))
    slopes = []
    for alpha in (0.0, 2.0):
        encoded = torch.zeros(1, 4, requires_grad=True)
        term = box_term(
            kl_criterion(), CODERS[0], encoded, matches, priors, alpha=torch.full((1, 4), alpha)
        )
        slopes.append(torch.autograd.grad(term, encoded)[0][0])
    # two sides, each 2 pixels = 1.25 units of a tenth of the side too far left
    torch.testing.assert_close(slopes[0], torch.tensor([-2.0, 0, 0, 0]))
    torch.testing.assert_close(slopes[1], slopes[0] * math.exp(-2))
