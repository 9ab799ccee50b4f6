"""FCOS's rule against loops, and by an example."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.assign import build_assigner
from detcli.ops.priors import Priors
from tests.assign import loops
from tests.assign.strategies import Case, cases


@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from([None, 0.5, 1.0, 1.5]))
def test_fcos_equals_the_loop(case: Case, center_radius: float | None) -> None:
    want = loops.fcos(case.priors, case.boxes, center_radius)
    got = build_assigner("fcos", center_radius=center_radius)(case.priors, case.boxes)
    assert got.tolist() == want.tolist()


def test_fcos_ranges_and_smallest_area() -> None:
    assigner = build_assigner("fcos", center_radius=None)
    # one point in the middle of each of three levels
    priors = Priors(
        torch.zeros(3, 4), torch.full((3, 2), 256.0), torch.tensor([8.0, 16.0, 32.0]), (1, 1, 1)
    )

    def around(half: float) -> list[float]:
        return [256.0 - half, 256.0 - half, 256.0 + half, 256.0 + half]

    for half, want in [
        (1, [0, -1, -1]),
        (64, [0, 0, -1]),  # both ends are closed
        (64.5, [-1, 0, -1]),
        (128, [-1, 0, 0]),
        (200, [-1, -1, 0]),  # the last level has no upper end
    ]:
        assert assigner(priors, torch.tensor([around(half)])).tolist() == want
    nested = torch.tensor([around(60), around(30), around(30), around(40)])
    assert assigner(priors, nested).tolist() == [1, -1, -1]
    on_border = torch.tensor([[256.0, 250.0, 280.0, 280.0]])
    assert assigner(priors, on_border).tolist() == [-1, -1, -1]
