"""Numbers of MMDetection's own Cascade R-CNN, from weights that are a function of their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detcli.weights import PublicWeights, convert_mmdetection, recognise_mmdetection
from tests.fixtures.reference import RAW_LIMIT, Fixture
from tests.models.specs import CASCADE_MM, KEEP_ALL, detector

pytestmark = pytest.mark.slow

STAGES = 3
TERMS = {
    "rpn_class": "loss_rpn_cls",
    "rpn_box": "loss_rpn_bbox",
    **{f"class_{stage + 1}": f"s{stage}.loss_cls" for stage in range(STAGES)},
    **{f"box_{stage + 1}": f"s{stage}.loss_bbox" for stage in range(STAGES)},
}
PARTS = {"backbone": "backbone", "neck": "neck", "rpn_head": "rpn", "roi_head": "heads"}


@dataclass
class Run:
    fixture: Fixture
    model: nn.Module
    names: dict[str, str]
    backbone: tuple[Tensor, ...]
    outputs: Any
    losses: dict[str, Tensor]


@pytest.fixture(scope="module")
def run() -> Run:
    """Forward, losses and backward of the fixture's batch in training mode, nothing sampled."""
    fixture = Fixture("mm_cascade_r50")
    facts = recognise_mmdetection(PublicWeights(fixture.state, None), "memory")
    assert (facts.detector, facts.depth, facts.num_classes) == ("cascade_rcnn", 50, 80)
    model = detector("cascade_rcnn", CASCADE_MM, KEEP_ALL)
    report = convert_mmdetection(fixture.state, model)
    assert set(report.names) == set(fixture.state)
    model.train()
    kept: list[tuple[Tensor, ...]] = []
    model.backbone.register_forward_hook(lambda _module, _inputs, maps: kept.append(maps))
    outputs = model(fixture.images, fixture.targets)
    losses = model.loss(outputs, fixture.targets)
    sum(losses.values()).backward()
    return Run(fixture, model, dict(report.names), kept[0], outputs, losses)


def test_features_and_first_stage(run: Run) -> None:
    first = run.outputs.first
    for name, levels in (
        ("feat/backbone", run.backbone),
        ("feat/neck", first.maps),
        ("raw/rpn/cls_score", first.rpn.class_logits),
        ("raw/rpn/bbox_pred", first.rpn.boxes),
    ):
        run.fixture.check_levels(name, levels)


def test_assigned_anchors(run: Run) -> None:
    """Anchors that leave their image take no part: written down as if they were background."""
    rpn = run.model.rpn
    priors = rpn.anchors(run.outputs.first.rpn.boxes, run.outputs.first.canvas)
    matched = rpn._assign(priors, run.fixture.targets)
    for index, level in enumerate(matched.split(priors.level_sizes, dim=1)):
        want = run.fixture.arrays[f"target_labels/{index}"]
        np.testing.assert_array_equal(want, (level < 0).numpy())


def test_proposals(run: Run) -> None:
    """As sets: scores that differ in the last bit swap their order."""
    for mode in ("train", "test"):
        run.model.train(mode == "train")
        first = run.outputs.first
        proposals = run.model.rpn.propose(first.rpn, first.canvas, run.fixture.sizes)
        for image, boxes in enumerate(proposals.boxes):
            want = torch.from_numpy(run.fixture.arrays[f"{mode}_proposals/{image}/boxes"])
            assert len(boxes) == len(want)
            nearest = torch.cdist(want, boxes, p=float("inf")).amin(dim=1)
            assert (nearest < 0.05).float().mean() > 0.99
    run.model.train()


def test_losses(run: Run) -> None:
    """Proposals are our own, and still the losses agree to 1e-4."""
    assert set(run.losses) == set(TERMS)
    run.fixture.check_losses(run.losses, TERMS)


def test_gradient_norms(run: Run) -> None:
    run.fixture.check_gradients(run.model, PARTS, run.names)


def test_given_regions(run: Run) -> None:
    rois = torch.from_numpy(run.fixture.arrays["fixed_rois/rois"])
    regions = [rois[rois[:, 0] == image, 1:] for image in range(3)]
    with torch.no_grad():
        pooled = run.model.pooler(run.outputs.first.maps, regions)
        for stage, head in enumerate(run.model.heads):
            logits, deltas, _ = head(pooled)
            for name, mine in (("roi_feat", pooled), ("cls_score", logits), ("bbox_pred", deltas)):
                error = run.fixture.error(f"fixed_rois/stage{stage}/{name}", mine)
                assert error < RAW_LIMIT, (stage, name)


def test_final_boxes(run: Run) -> None:
    run.model.eval()
    with torch.no_grad():
        outputs = run.model(run.fixture.images, sizes=run.fixture.sizes)
        candidates = run.model.decode(outputs, run.fixture.sizes)
    run.model.train()
    run.fixture.check_boxes(candidates, 0.5)
