"""The focal loss of heat maps against its formula."""

from __future__ import annotations

import pytest
import torch

from detcli.losses.heatmap import GaussianFocal


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 6, generator=generator) * 3
    targets = torch.rand(2, 3, 5, 6, generator=generator)
    targets[0, 1, 2, 3] = targets[1, 0, 0, 0] = 1
    ignored = torch.zeros(2, 5, 6, dtype=torch.bool)
    ignored[0, 2, 3] = ignored[1, 4, 4] = True  # the first is a peak of class 1
    return logits, targets, ignored


@pytest.mark.parametrize("low", [0.0, 0.05])
def test_value_and_slope_are_those_of_the_formula(low: float) -> None:
    logits, targets, ignored = example()
    mine, plain = logits.clone().requires_grad_(), logits.clone().double().requires_grad_()
    got = GaussianFocal(2.0, 4.0, low, weight=1.5)(mine, targets, ignored)
    p = plain.sigmoid()
    if low:
        p = p.clamp(low, 1 - low)
    want = 0.0
    for image, label, y, x in torch.cartesian_prod(*map(torch.arange, logits.shape)).tolist():
        value, wanted = p[image, label, y, x], targets[image, label, y, x]
        if wanted == 1:
            want = want - (1 - value) ** 2 * value.log()
        elif not ignored[image, y, x]:
            want = want - (1 - wanted) ** 4 * value**2 * (1 - value).log()
    want = want * 1.5
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    got.backward()
    want.backward()
    torch.testing.assert_close(mine.grad.double(), plain.grad, rtol=1e-4, atol=1e-6)
    if low:
        assert (mine.grad == 0).sum() > 10


def test_finite_for_certain_scores() -> None:
    logits = torch.tensor([[[[-300.0, 300.0, 300.0, -300.0]]]], requires_grad=True)
    targets = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    loss = GaussianFocal(2.0, 4.0, 0.0, weight=1.0)(logits, targets, torch.zeros(1, 1, 4).bool())
    assert loss.item() == pytest.approx(600.0)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_half_precision_is_summed_in_float32() -> None:
    logits, targets, ignored = example()
    loss = GaussianFocal(2.0, 4.0, 0.0, weight=1.0)(logits.bfloat16(), targets, ignored)
    assert loss.dtype == torch.float32


def test_shapes_are_checked() -> None:
    logits, targets, ignored = example()
    with pytest.raises(ValueError, match="targets: expected shape"):
        GaussianFocal(2.0, 4.0, 0.0, weight=1.0)(logits, targets[:1], ignored)
