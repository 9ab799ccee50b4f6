"""Larger boxes for small objects."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.assign import EnlargedBoxes, build_assigner
from detcli.ops.priors import anchor_shapes, grid_priors
from tests.assign.strategies import Case, cases

CASES = settings(max_examples=80, deadline=None)


ASSIGNERS = {
    "max_iou": {"positive_iou": 0.5, "negative_iou": 0.4, "min_positive_iou": 0.0},
    "atss": {"topk": 3},
    "fcos": {"center_radius": 1.5},
}


@CASES
@given(cases(), st.sampled_from(sorted(ASSIGNERS)), st.sampled_from([16.0, 50.0]))
def test_enlarging_is_assigning_larger_boxes(case: Case, name: str, side: float) -> None:
    larger = []
    for x1, y1, x2, y2 in case.boxes.tolist():  # eighths of a pixel: exact in float32
        grow = (x2 - x1) * (y2 - y1) < side**2
        half_width, half_height = ((x2 - x1) * grow / 2, (y2 - y1) * grow / 2)
        larger.append([x1 - half_width, y1 - half_height, x2 + half_width, y2 + half_height])
    enlarged = build_assigner(
        name, **ASSIGNERS[name], enlarge_small={"max_side_px": side, "factor": 2.0}
    )
    assert isinstance(enlarged, EnlargedBoxes)
    wanted = torch.tensor(larger).reshape(-1, 4)
    torch.testing.assert_close(enlarged.enlarge(case.boxes), wanted, rtol=0, atol=0)
    plain = build_assigner(name, **ASSIGNERS[name])
    assert torch.equal(enlarged(case.priors, case.boxes), plain(case.priors, wanted))


def test_an_object_between_all_points_is_found_when_enlarged() -> None:
    priors = grid_priors([(4, 4)], [8], [anchor_shapes([32.0], [1.0])])
    tiny = torch.tensor([[9.0, 9, 15, 15]])
    assert (build_assigner("fcos", center_radius=None)(priors, tiny) == -1).all()
    enlarge = {"max_side_px": 16.0, "factor": 1.5}
    found = build_assigner("fcos", center_radius=None, enlarge_small=enlarge)(priors, tiny)
    assert found.view(4, 4)[1:3, 1:3].tolist() == [[0, 0], [0, 0]]
    assert (found == 0).sum() == 4
