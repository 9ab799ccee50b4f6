"""Centre-ness: its targets, its loss and what it does to scores, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from detcli.models.dense.centerness_branch import CenternessBranch
from detcli.models.dense.matching import collect_matches
from detcli.ops.priors import Priors
from tests.models.specs import target


def test_targets_and_loss() -> None:
    """A point in the middle, and one a quarter from the left: sqrt(1/3)."""
    points = torch.tensor([[8.0, 8.0], [4.0, 8.0]])
    priors = Priors(torch.zeros(2, 4), points, torch.ones(2), (2,))
    branch = CenternessBranch(weight=2.0, min_sum=1.0)
    wanted = branch.targets(priors, torch.tensor([[0.0, 0, 16, 16]] * 2))
    assert wanted.tolist() == pytest.approx([1.0, math.sqrt(1 / 3)])
    objects = [target([[0, 0, 16, 16]], [0], (16, 16))]
    matches = collect_matches(torch.tensor([[0, 0]]), objects, num_classes=3)
    total = branch.loss((torch.zeros(1, 1, 1, 2),), wanted, matches)
    assert total.item() == pytest.approx(2 * 2 * math.log(2))  # p is 1/2, whatever is wanted


def test_scores() -> None:
    scores, maps = [torch.tensor([[[0.36, 0.04]]])], [torch.zeros(1, 1, 1, 1)]
    selecting, factors = CenternessBranch(1.0, 1.0).rate(scores, maps)
    assert selecting is scores
    assert [factor.tolist() for factor in factors or []] == [[[0.5]]]
    selecting, factors = CenternessBranch(1.0, 1.0, "sqrt_product").rate(scores, maps)
    assert factors is None
    assert selecting[0].flatten().tolist() == pytest.approx([math.sqrt(0.18), math.sqrt(0.02)])
