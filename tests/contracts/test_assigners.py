"""What every assigner must do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detcli.assign import MaxIoUAssigner, SmallThresholds, enlarging
from detcli.ops.priors import anchor_shapes, grid_priors
from detcli.recipe.sections.priors import EnlargedObjects
from tests.sections import ASSIGNERS, assigner_of

WHOLE = {
    "max_iou": {"positive_iou": 0.5, "negative_iou": 0.4, "min_positive_iou": 0.0},
    "atss": {"topk": 9},
    "fcos": {"center_radius": None},
}


@pytest.mark.parametrize("name", ASSIGNERS)
def test_shape_type_and_empty_inputs(name: str) -> None:
    assigner = assigner_of(name, **WHOLE[name])
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


RELAXED = {
    "max_iou": {"positive_iou": 0.5, "negative_iou": 0.4, "min_positive_iou": 0.0},
    "atss": {"topk": 3},
    "fcos": {"center_radius": 1.5},
}


def objects() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(12, 2, generator=generator) * 180
    return torch.cat([corner, corner + 8 + torch.rand(12, 2, generator=generator) * 70], dim=1)


@pytest.mark.parametrize("name", [*RELAXED, "fcos_whole_box", "max_iou_small"])
def test_relaxed_rules_give_more_priors_to_objects(name: str) -> None:
    keywords = {
        **RELAXED,
        "fcos_whole_box": {"name": "fcos", "center_radius": None},
        "max_iou_small": {
            **RELAXED["max_iou"],
            "name": "max_iou",
            "small": {"max_side_px": 40.0, "positive_iou": 0.3, "negative_iou": 0.2},
        },
    }[name]
    shapes = [anchor_shapes([4.0 * stride], [1.0]) for stride in (8, 16, 32)]
    priors = grid_priors([(32, 32), (16, 16), (8, 8)], [8, 16, 32], shapes)
    for enlarge in (None, EnlargedObjects(max_side_px=40.0, factor=1.5)):
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
