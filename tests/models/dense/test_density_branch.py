"""Densities of objects, and the branch that learns them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import box_iou

from detcli.models.dense.density_branch import DensityBranch, DensityNet, object_densities
from detcli.models.dense.matching import Matches
from detcli.types import Target
from tests.models.specs import target

CANVAS = (64, 96)


def crowd() -> list[Target]:
    """Two of a class that overlap by a third, one of another class on top of them; and nothing."""
    boxes = [[10, 12, 42, 60], [26, 12, 58, 60], [10, 12, 42, 60]]
    return [target(boxes, [1, 1, 2], CANVAS), target([], [], (64, 64))]


boxes = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 12)] * 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(boxes, st.integers(0, 1)), max_size=6), min_size=1, max_size=3))
def test_densities_are_the_largest_iou_with_another_of_the_class(found: list[Any]) -> None:
    targets = [
        target([[x, y, x + w, y + h] for (x, y, w, h), _ in rows], [n for _, n in rows], CANVAS)
        for rows in found
    ]
    wanted = []
    for each in targets:
        iou = box_iou(each.boxes, each.boxes)
        for one, label in enumerate(each.labels):
            others = [iou[one, k] for k, n in enumerate(each.labels) if k != one and n == label]
            wanted.append(max(others, default=0.0))
    torch.testing.assert_close(object_densities(targets), torch.tensor(wanted))


def test_the_loss_is_smooth_l1_of_the_positives() -> None:
    matches = Matches(
        torch.tensor([[1, 3, 2], [3, 3, 3]]),
        torch.tensor([0, 2]),
        torch.tensor([1, 2]),
        torch.zeros(2, 4),
        torch.ones(2),
        torch.tensor([2, 0]),
    )
    maps = torch.tensor([[0.6, 9.0, 1.5], [9.0, 9.0, 9.0]], requires_grad=True)
    got = DensityBranch(weight=2.0).loss((maps.view(2, 1, 1, 3),), matches, crowd())
    assert got.item() == pytest.approx(2 * ((0.6 - 1 / 3) ** 2 / 2 + 1.5 - 0.5))  # 0 of class 2
    (slope,) = torch.autograd.grad(got, maps)
    torch.testing.assert_close(slope, torch.tensor([[2 * (0.6 - 1 / 3), 0, 2.0], [0, 0, 0]]))


def test_the_net_looks_around_and_leaves_the_predictions_alone() -> None:
    net = DensityNet(16, 2)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.uniform_(part.weight, 0.01, 0.1)
    x, objectness, deltas = (torch.rand(1, width, 9, 9).requires_grad_() for width in (16, 2, 8))
    density = net(x, objectness, deltas)
    assert density.shape == (1, 2, 9, 9)
    to_map, *others = torch.autograd.grad(
        density[0, 0, 4, 4], [x, objectness, deltas], allow_unused=True
    )
    assert others == [None, None]
    seen = to_map[0].abs().sum(dim=0) > 0
    assert seen[1:8, 1:8].all()  # 3 cells to each side: a 3x3, then a 5x5 convolution
    assert seen.sum() == 49
    assert not torch.equal(net(x, objectness + 1, deltas), density)
    assert not torch.equal(net(x, objectness, deltas + 1), density)
