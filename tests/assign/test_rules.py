"""The assigners against loops over random priors and boxes, and each rule by an example."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from detcli.assign import ATSSAssigner, ignore_inside
from detcli.ops.priors import Priors, anchor_shapes, grid_priors
from tests.assign import loops
from tests.assign.strategies import Case, box_lists, cases, eighths
from tests.sections import ASSIGNERS, assigner_of

shares = st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.3, 0.5, 0.7])
BUILDS = {
    "max_iou": {"positive_iou": 0.5, "negative_iou": 0.4, "min_positive_iou": 0.0},
    "atss": {"topk": 9},
    "fcos": {"center_radius": None},
}


def one_level(boxes: list[list[float]], stride: float = 8.0) -> Priors:
    corners = torch.tensor(boxes).reshape(-1, 4)
    centers = (corners[:, :2] + corners[:, 2:]) / 2
    return Priors(corners, centers, torch.full((len(corners),), stride), (len(corners),))


@settings(max_examples=300, deadline=None)
@given(cases(), shares, shares, shares)
def test_max_iou_equals_the_loop(case: Case, a: float, b: float, lowest: float) -> None:
    positive, negative = max(a, b, 0.05), min(a, b)
    assigner = assigner_of(
        "max_iou", positive_iou=positive, negative_iou=negative, min_positive_iou=lowest
    )
    want = loops.max_iou(case.priors, case.boxes, positive, negative, lowest)
    assert assigner(case.priors, case.boxes).tolist() == want.tolist()


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(1, 12))
def test_atss_equals_the_loop(case: Case, topk: int) -> None:
    want, margin = loops.atss(case.priors, case.boxes, topk, case.anchors)
    assume(margin > 1e-9)  # below, the order of the sums decides
    got = assigner_of("atss", topk=topk)(case.priors, case.boxes)
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


@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from([None, 0.5, 1.0, 1.5]))
def test_fcos_equals_the_loop(case: Case, center_radius: float | None) -> None:
    want = loops.fcos(case.priors, case.boxes, center_radius)
    got = assigner_of("fcos", center_radius=center_radius)(case.priors, case.boxes)
    assert got.tolist() == want.tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(eighths, eighths, st.integers(-2, 3)), max_size=20), box_lists())
def test_ignored_regions_equal_the_loop(rows: list[tuple[float, float, int]], boxes: torch.Tensor):
    centers = torch.tensor([row[:2] for row in rows]).reshape(-1, 2)
    matched = torch.tensor([row[2] for row in rows], dtype=torch.int64)
    want = []
    for x, y, index in rows:
        inside = any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes.tolist())
        want.append(-2 if inside and index < 0 else index)
    assert ignore_inside(matched, centers, boxes).tolist() == want


@pytest.mark.parametrize("name", ASSIGNERS)
def test_shape_type_and_empty_inputs(name: str) -> None:
    assigner = assigner_of(name, **BUILDS[name])
    priors = grid_priors([(4, 6), (2, 3)], [8, 16], [anchor_shapes([32.0], [1.0])] * 2)
    nothing = priors.select(torch.zeros(len(priors), dtype=torch.bool))
    boxes = torch.tensor([[4.0, 4.0, 30.0, 28.0], [10.0, 2.0, 14.0, 9.0]])
    got = assigner(priors, boxes)
    assert got.shape == (len(priors),)
    assert got.dtype == torch.int64
    assert (got >= 0).any()
    assert assigner(priors, boxes[:0]).tolist() == [-1] * len(priors)
    for objects in (boxes, boxes[:0]):
        empty = assigner(nothing, objects)
        assert empty.shape == (0,)
        assert empty.dtype == torch.int64
    flat = torch.tensor([[5.0, 5.0, 5.0, 20.0], [7.0, 7.0, 7.0, 7.0]])  # no area, no prior
    assert assigner(priors, flat).tolist() == [-1] * len(priors)
    with pytest.raises(ValueError, match="boxes: expected shape"):
        assigner(priors, boxes[:, :3])


def test_max_iou_thresholds_are_met_from_their_own_value_on() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    # IoU with the box: 1, 0.5, 0.4, 0.3
    priors = one_level([[0, 0, 10, height] for height in (10, 5, 4, 3)])
    assigner = assigner_of("max_iou", positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0)
    assert assigner(priors, box).tolist() == [0, 0, -2, -1]


def test_max_iou_best_priors_all_count_and_the_later_box_keeps_them() -> None:
    assigner = assigner_of("max_iou", positive_iou=0.9, negative_iou=0.8, min_positive_iou=0.0)
    priors = one_level([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 4.0]])
    # IoU 1 with box 0 and 0.4 with box 1, whose best they are as well
    assert assigner(priors, boxes).tolist() == [1, 1, -1]
    strict = assigner_of("max_iou", positive_iou=0.9, negative_iou=0.8, min_positive_iou=0.5)
    assert strict(priors, boxes).tolist() == [0, 0, -1]
    exact = assigner_of("max_iou", positive_iou=0.9, negative_iou=0.8, min_positive_iou=0.4)
    assert exact(priors, boxes).tolist() == [1, 1, -1]


def test_ignored_regions_hold_their_border() -> None:
    region = torch.tensor([[2.0, 3.0, 8.0, 9.0]])
    centers = torch.tensor([[2.0, 3.0], [8.0, 9.0], [5.0, 9.0], [8.125, 9.0], [5.0, 5.0]])
    matched = torch.tensor([-1, -1, -1, -1, 0])
    assert ignore_inside(matched, centers, region).tolist() == [-2, -2, -2, -1, 0]
    assert ignore_inside(matched, centers, region[:0]).tolist() == matched.tolist()


def test_atss_worked_example() -> None:
    # the same centre, IoU with the box 1, 0.5 and 0.25: threshold 0.583 + 0.382 = 0.965
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    priors = Priors(
        torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 2.0, 8.0, 6.0], [0.0, 3.0, 8.0, 5.0]]),
        torch.full((3, 2), 4.0),
        torch.tensor([8.0, 16.0, 32.0]),
        (1, 1, 1),
    )
    assert assigner_of("atss", topk=9)(priors, box).tolist() == [0, -1, -1]
    # outside by the centre rule: 0.01 from a side is not inside
    near = Priors(priors.boxes, torch.tensor([[0.01, 4.0]] * 3), priors.strides, priors.level_sizes)
    assert assigner_of("atss", topk=9)(near, box).tolist() == [-1, -1, -1]


def test_fcos_ranges_and_smallest_area() -> None:
    assigner = assigner_of("fcos", center_radius=None)
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
