"""The stages of a cascade."""

from __future__ import annotations

import pytest
import torch

from detcli.models.two_stage.detector import RegionDetectorOutputs
from detcli.models.two_stage.regions import region_priors, sample_regions
from tests.models.specs import target
from tests.models.two_stage.small import CANVAS, batch, small, some_targets, wide_awake

pytestmark = pytest.mark.usefixtures("one_thread")


def test_stages_start_from_the_boxes_before() -> None:
    model = wide_awake(small("cascade_rcnn"))
    outputs: RegionDetectorOutputs = model(batch(), some_targets())
    for before, after, stage in zip(outputs.stages, outputs.stages[1:], model.stages, strict=False):
        refined = stage.coder.decode(before.boxes.float(), region_priors(torch.cat(before.regions)))
        start = 0
        for image, wanted in enumerate(some_targets()):
            height, width = wanted.size
            boxes = refined[start : start + len(before.regions[image])]
            boxes = boxes[~before.samples.is_object[image]]
            limits = torch.tensor([width, height, width, height])
            want = torch.cat([wanted.boxes, boxes.clamp(min=0).minimum(limits)])
            torch.testing.assert_close(after.regions[image], want)
            start += len(before.regions[image])
        assert not after.regions[0].requires_grad


def test_stages_ask_for_more_and_more_overlap() -> None:
    model = small("cascade_rcnn")
    wanted = [target([[0, 0, 40, 40]], [1], CANVAS)]
    around = torch.tensor([[0.0, 0, 40, 22], [0, 0, 40, 26], [0, 0, 40, 30]])  # 0.55, 0.65, 0.75
    counts = [
        len(
            sample_regions(
                [around],
                wanted,
                assigner=stage.criterion.assigner,
                sampler=model.sampler,
                num_classes=3,
            ).matches.positive
        )
        for stage in model.stages
    ]
    assert counts == [4, 3, 2]  # with the object itself


def test_stage_weights() -> None:
    plain = small("cascade_rcnn", {"stage_weights": [1.0, 1.0, 1.0]})
    weighted = small("cascade_rcnn", {"stage_weights": [1.0, 0.5, 0.25]})
    weighted.load_state_dict(plain.state_dict())
    losses = [m.loss(m(batch(), some_targets()), some_targets()) for m in (plain, weighted)]
    for term, factor in zip(["1", "2", "3"], [1, 0.5, 0.25], strict=True):
        for kind in ("class", "box"):
            torch.testing.assert_close(
                losses[1][f"{kind}_{term}"], losses[0][f"{kind}_{term}"] * factor
            )


def test_scores_are_the_mean_of_the_stages() -> None:
    model = wide_awake(small("cascade_rcnn", {"score_threshold": 0.0})).eval()
    with torch.no_grad():
        outputs = model(batch(1))
        (found,) = model.decode(outputs, [CANVAS])
    logits = sum(stage.class_logits for stage in outputs.stages) / 3
    want = logits.softmax(dim=1)[:, :-1].flatten().sort(descending=True)[0]
    torch.testing.assert_close(found.scores, want)
