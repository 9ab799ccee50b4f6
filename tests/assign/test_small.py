"""Lower thresholds for small objects, larger boxes for them, and the relaxed rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detcli.assign import EnlargedBoxes, MaxIoUAssigner, SmallThresholds, enlarging
from detcli.ops.priors import Priors, anchor_shapes, grid_priors
from detcli.recipe.sections.priors import EnlargedObjects
from tests.assign import loops
from tests.assign.strategies import Case, cases
from tests.sections import assigner_of, section

F = np.float32
CASES = settings(max_examples=80, deadline=None)
ASSIGNERS = {
    "max_iou": {"positive_iou": 0.5, "negative_iou": 0.4, "min_positive_iou": 0.0},
    "atss": {"topk": 3},
    "fcos": {"center_radius": 1.5},
}


def max_iou_with_small(priors: Priors, boxes: Tensor, small: SmallThresholds) -> Tensor:
    """The rule with 0.5 and 0.4 for large boxes, one number at a time."""
    objects = boxes.numpy()
    limits = []
    for box in objects:
        is_small = (box[2] - box[0]) * (box[3] - box[1]) < F(small.max_side_px**2)
        limits.append((small.positive_iou, small.negative_iou) if is_small else (0.5, 0.4))
    matched = []
    for anchor in priors.boxes.numpy():
        ious = [loops.iou_of(box, anchor) for box in objects]
        reached = [(-iou, number) for number, iou in enumerate(ious) if iou >= F(limits[number][0])]
        near = any(iou >= F(negative) for iou, (_, negative) in zip(ious, limits, strict=True))
        matched.append(min(reached)[1] if reached else -2 if near else -1)
    for number, box in enumerate(objects):
        ious = [loops.iou_of(box, anchor) for anchor in priors.boxes.numpy()]
        best = max(ious, default=F(0))
        for index, iou in enumerate(ious):
            if best > 0 and iou == best:
                matched[index] = number
    return torch.tensor(matched, dtype=torch.int64)


@CASES
@given(cases(), st.sampled_from([8.0, 24.0, 60.0]), st.sampled_from([(0.35, 0.25), (0.2, 0.1)]))
def test_small_thresholds_equal_a_plain_loop(
    case: Case, side: float, low: tuple[float, float]
) -> None:
    small = SmallThresholds(side, *low)
    got = MaxIoUAssigner(0.5, 0.4, 0.0, small)(case.priors, case.boxes)
    assert torch.equal(got, max_iou_with_small(case.priors, case.boxes, small))


def row_of(*boxes: list[float]) -> Priors:
    corners = torch.tensor(boxes)
    centers = (corners[:, :2] + corners[:, 2:]) / 2
    return Priors(corners, centers, torch.full((len(boxes),), 8.0), (len(boxes),))


def test_an_anchor_of_iou_04_is_taken_by_a_small_object_alone() -> None:
    # 10 x 10 objects; anchors of IoU 1 and 0.4, for an object of each size
    priors = row_of([0, 0, 10, 10], [0, 0, 10, 4], [100, 0, 200, 100], [100, 0, 200, 40])
    boxes = torch.tensor([[0.0, 0, 10, 10], [100.0, 0, 200, 100]])
    assert MaxIoUAssigner(0.5, 0.4, 0.0)(priors, boxes).tolist() == [0, -2, 1, -2]
    rule = MaxIoUAssigner(0.5, 0.4, 0.0, SmallThresholds(32.0, 0.35, 0.25))
    assert rule(priors, boxes).tolist() == [0, 0, 1, -2]
    same = MaxIoUAssigner(0.5, 0.4, 0.0, SmallThresholds(10.0, 0.35, 0.25))
    assert same(priors, boxes).tolist() == [0, -2, 1, -2]  # 10 pixels are not below 10


def test_a_small_object_does_not_lower_the_limit_of_a_large_one() -> None:
    large, small = [0.0, 0, 40, 40], [0.0, 0, 10, 10]
    anchor = [0.0, 0, 40, 18]  # IoU 0.45 with the large, 0.14 with the small box
    rule = MaxIoUAssigner(0.5, 0.4, 0.9, SmallThresholds(32.0, 0.1, 0.05))
    assert rule(row_of(anchor), torch.tensor([large, small])).tolist() == [1]
    assert rule(row_of(anchor), torch.tensor([large])).tolist() == [-2]


@CASES
@given(cases(), st.sampled_from(sorted(ASSIGNERS)), st.sampled_from([16.0, 50.0]))
def test_enlarging_is_assigning_larger_boxes(case: Case, name: str, side: float) -> None:
    larger = []
    for x1, y1, x2, y2 in case.boxes.tolist():  # eighths of a pixel: exact in float32
        grow = (x2 - x1) * (y2 - y1) < side**2
        half_width, half_height = ((x2 - x1) * grow / 2, (y2 - y1) * grow / 2)
        larger.append([x1 - half_width, y1 - half_height, x2 + half_width, y2 + half_height])
    plain = assigner_of(name, **ASSIGNERS[name])
    enlarged = enlarging(plain, section(EnlargedObjects, max_side_px=side, factor=2.0))
    assert isinstance(enlarged, EnlargedBoxes)
    wanted = torch.tensor(larger).reshape(-1, 4)
    torch.testing.assert_close(enlarged.enlarge(case.boxes), wanted, rtol=0, atol=0)
    assert torch.equal(enlarged(case.priors, case.boxes), plain(case.priors, wanted))


def test_an_object_between_all_points_is_found_when_enlarged() -> None:
    priors = grid_priors([(4, 4)], [8], [anchor_shapes([32.0], [1.0])])
    tiny = torch.tensor([[9.0, 9, 15, 15]])
    plain = assigner_of("fcos", center_radius=None)
    assert (plain(priors, tiny) == -1).all()
    found = enlarging(plain, section(EnlargedObjects, max_side_px=16.0, factor=1.5))(priors, tiny)
    assert found.view(4, 4)[1:3, 1:3].tolist() == [[0, 0], [0, 0]]
    assert (found == 0).sum() == 4


def objects() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(12, 2, generator=generator) * 180
    return torch.cat([corner, corner + 8 + torch.rand(12, 2, generator=generator) * 70], dim=1)


@pytest.mark.parametrize("name", [*ASSIGNERS, "fcos_whole_box", "max_iou_small"])
def test_relaxed_rules_give_more_priors_to_objects(name: str) -> None:
    keywords = {
        **ASSIGNERS,
        "fcos_whole_box": {"name": "fcos", "center_radius": None},
        "max_iou_small": {
            **ASSIGNERS["max_iou"],
            "name": "max_iou",
            "small": {"max_side_px": 40.0, "positive_iou": 0.3, "negative_iou": 0.2},
        },
    }[name]
    shapes = [anchor_shapes([4.0 * stride], [1.0]) for stride in (8, 16, 32)]
    priors = grid_priors([(32, 32), (16, 16), (8, 8)], [8, 16, 32], shapes)
    for enlarge in (None, section(EnlargedObjects, max_side_px=40.0, factor=1.5)):
        rule = enlarging(assigner_of(**{"name": name} | keywords), enlarge)
        fine, coarse = (r(priors, objects()) >= 0 for r in (rule, rule.relaxed(2.0)))
        assert coarse.sum() >= 1.2 * fine.sum()


def test_relaxed_thresholds() -> None:
    rule = MaxIoUAssigner(0.5, 0.4, 0.1, SmallThresholds(32.0, 0.4, 0.2)).relaxed(2.0)
    assert rule == MaxIoUAssigner(0.25, 0.2, 0.1, SmallThresholds(32.0, 0.2, 0.1))
    assert assigner_of("atss", topk=9).relaxed(1.5).topk == 14  # 13.5, to even
    assert assigner_of("fcos", center_radius=1.5).relaxed(2.0).center_radius == 3.0
    whole = assigner_of("fcos", center_radius=None).relaxed(2.0)
    assert whole.range_strides == (2.0, 16.0)
