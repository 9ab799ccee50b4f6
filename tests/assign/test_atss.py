"""ATSS against loops, and by an example."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from detcli.assign import ATSSAssigner, build_assigner
from detcli.ops.priors import Priors, anchor_shapes, grid_priors
from tests.assign import loops
from tests.assign.strategies import Case, cases


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(1, 12))
def test_atss_equals_the_loop(case: Case, topk: int) -> None:
    want, margin = loops.atss(case.priors, case.boxes, topk, case.anchors)
    assume(margin > 1e-9)  # below, the order of the sums decides
    got = build_assigner("atss", topk=topk)(case.priors, case.boxes)
    assert got.tolist() == want.tolist()


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(1, 12))
def test_atss_candidates_equal_the_loop(case: Case, topk: int) -> None:
    """Ties included: box centres often lie on, or half way between, the cells' centres."""
    assume(len(case.priors) and len(case.boxes))
    got = ATSSAssigner(topk)._candidates(case.priors, case.boxes)
    assert got.shape[0] == len(case.boxes)
    for row, box in zip(got.tolist(), case.boxes.numpy(), strict=True):
        want = loops.atss_candidates(case.priors, box, topk, case.anchors)
        assert sorted(row) == sorted(want)


@pytest.mark.parametrize("center", [(16.0, 16.0), (20.0, 12.0), (0.0, 32.0), (18.0, 20.0)])
def test_atss_takes_the_earlier_of_equally_near_cells(center: tuple[float, float]) -> None:
    priors = grid_priors([(5, 5)], [8], [anchor_shapes([16.0], [1.0])])
    x, y = center
    box = torch.tensor([[x - 12, y - 12, x + 12, y + 12]])
    for topk in range(1, 27):
        (got,) = ATSSAssigner(topk)._candidates(priors, box).tolist()
        assert sorted(got) == sorted(loops.atss_candidates(priors, box.numpy()[0], topk, 1))


def test_atss_worked_example() -> None:
    # the same centre, IoU with the box 1, 0.5 and 0.25: threshold 0.583 + 0.382 = 0.965
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    priors = Priors(
        torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 2.0, 8.0, 6.0], [0.0, 3.0, 8.0, 5.0]]),
        torch.full((3, 2), 4.0),
        torch.tensor([8.0, 16.0, 32.0]),
        (1, 1, 1),
    )
    assert build_assigner("atss", topk=9)(priors, box).tolist() == [0, -1, -1]
    # outside by the centre rule: 0.01 from a side is not inside
    near = Priors(priors.boxes, torch.tensor([[0.01, 4.0]] * 3), priors.strides, priors.level_sizes)
    assert build_assigner("atss", topk=9)(near, box).tolist() == [-1, -1, -1]
