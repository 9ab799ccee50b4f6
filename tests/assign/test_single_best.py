"""One best anchor for each object, against a plain loop."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detcli.ops.priors import Priors
from tests.assign.loops import iou_of
from tests.assign.strategies import Case, cases
from tests.sections import assigner_of


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
def test_equals_a_plain_loop(case: Case, threshold: float) -> None:
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
