"""The rule of the largest IoU against loops, and by examples."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detcli.assign import MaxIoUAssigner, SmallThresholds
from detcli.ops.priors import Priors
from tests.assign import loops
from tests.assign.loops import iou_of
from tests.assign.strategies import Case, cases
from tests.sections import assigner_of

shares = st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.3, 0.5, 0.7])


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


def plain_loop(priors: Priors, boxes: Tensor, threshold: float) -> Tensor:
    """SSD's rule: the best box from the threshold on, then for each box its first best anchor."""
    anchors, objects = priors.boxes.numpy(), boxes.numpy()
    matched = []
    for anchor in anchors:
        ious = [iou_of(box, anchor) for box in objects]
        best = max(ious, default=np.float32(0))
        matched.append(ious.index(best) if ious and best >= np.float32(threshold) else -1)
    for number, box in enumerate(objects):
        ious = [iou_of(box, anchor) for anchor in anchors]
        if ious and max(ious) > 0:
            matched[ious.index(max(ious))] = number
    return torch.tensor(matched, dtype=torch.int64)


@settings(max_examples=80, deadline=None)
@given(cases(), st.sampled_from([0.25, 0.5]))
def test_one_best_anchor_of_each_object_equals_a_plain_loop(case: Case, threshold: float) -> None:
    assigner = assigner_of(
        "max_iou",
        positive_iou=threshold,
        negative_iou=threshold,
        min_positive_iou=0.0,
        small=None,
        single_best=True,
    )
    got = assigner(case.priors, case.boxes)
    assert torch.equal(got, plain_loop(case.priors, case.boxes, threshold))


F = np.float32


CASES = settings(max_examples=80, deadline=None)


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


def objects() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(12, 2, generator=generator) * 180
    return torch.cat([corner, corner + 8 + torch.rand(12, 2, generator=generator) * 70], dim=1)
