"""Numbers of MMDetection's own Cascade R-CNN, from weights that are a function of their names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from detcli.models.convert import PublicWeights, convert_mmdetection, recognise_mmdetection
from tests.models.fixtures import Fixture, num_agreeing
from tests.models.specs import CASCADE_MM, KEEP_ALL, detector
from tests.paths import needs_shared

pytestmark = needs_shared

# of the fixtures' own README; proposals are our own, and still the losses agree to 1e-4
RAW_LIMIT, LOSS_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-4, 1e-3
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
    for index, level in enumerate(run.backbone):
        assert run.fixture.error(f"feat/backbone/{index}", level) < RAW_LIMIT
    for index, level in enumerate(run.outputs.maps):
        assert run.fixture.error(f"feat/neck/{index}", level) < RAW_LIMIT
    for name, levels in (
        ("cls_score", run.outputs.rpn.class_logits),
        ("bbox_pred", run.outputs.rpn.boxes),
    ):
        for index, level in enumerate(levels):
            assert run.fixture.error(f"raw/rpn/{name}/{index}", level) < RAW_LIMIT, (name, index)


def test_assigned_anchors(run: Run) -> None:
    """Anchors that leave their image take no part: written down as if they were background."""
    rpn = run.model.rpn
    priors = rpn.anchors(run.outputs.rpn.boxes, run.outputs.canvas)
    matched = rpn._assign(priors, run.fixture.targets)
    for index, level in enumerate(matched.split(priors.level_sizes, dim=1)):
        want = run.fixture.arrays[f"target_labels/{index}"]
        np.testing.assert_array_equal(want, (level < 0).numpy())


def test_proposals(run: Run) -> None:
    """As sets: scores that differ in the last bit swap their order."""
    for mode in ("train", "test"):
        run.model.train(mode == "train")
        proposals = run.model.rpn.propose(run.outputs.rpn, run.outputs.canvas, run.fixture.sizes)
        for image, boxes in enumerate(proposals):
            want = torch.from_numpy(run.fixture.arrays[f"{mode}_proposals/{image}/boxes"])
            assert len(boxes) == len(want)
            nearest = torch.cdist(want, boxes, p=float("inf")).amin(dim=1)
            assert (nearest < 0.05).float().mean() > 0.99
    run.model.train()


def test_losses(run: Run) -> None:
    assert set(run.losses) == set(TERMS)
    for name, value in run.losses.items():
        want = float(run.fixture.arrays[f"loss/{TERMS[name]}"])
        assert value.item() == pytest.approx(want, rel=LOSS_LIMIT), name
    total = float(run.fixture.arrays["loss/total"])
    assert sum(run.losses.values()).item() == pytest.approx(total, rel=LOSS_LIMIT)


def test_gradient_norms(run: Run) -> None:
    parameters = dict(run.model.named_parameters())
    for theirs, ours in PARTS.items():
        squares = [
            value.grad.double().square().sum().item()
            for name, value in parameters.items()
            if name.startswith(f"{ours}.") and value.requires_grad
        ]
        want = float(run.fixture.arrays[f"grad/{theirs}"])
        assert math.sqrt(sum(squares)) == pytest.approx(want, rel=GRADIENT_LIMIT), theirs
    names = [str(name) for name in run.fixture.arrays["grad_param/names"]]
    norms = run.fixture.arrays["grad_param/norms"]
    floor = 1e-6 * float(np.nanmax(norms))
    for name, want in zip(names, norms, strict=True):
        parameter = parameters[run.names[name]]
        if np.isnan(want):
            assert not parameter.requires_grad, name
            continue
        got = parameter.grad.double().norm().item()
        assert got == pytest.approx(want, rel=GRADIENT_LIMIT, abs=floor), name


def test_given_regions(run: Run) -> None:
    rois = torch.from_numpy(run.fixture.arrays["fixed_rois/rois"])
    regions = [rois[rois[:, 0] == image, 1:] for image in range(3)]
    with torch.no_grad():
        pooled = run.model.pooler(run.outputs.maps, regions)
        for stage, head in enumerate(run.model.heads):
            logits, deltas = head(pooled)
            for name, mine in (("roi_feat", pooled), ("cls_score", logits), ("bbox_pred", deltas)):
                error = run.fixture.error(f"fixed_rois/stage{stage}/{name}", mine)
                assert error < RAW_LIMIT, (stage, name)


def test_final_boxes(run: Run) -> None:
    run.model.eval()
    with torch.no_grad():
        outputs = run.model(run.fixture.images, sizes=run.fixture.sizes)
        candidates = run.model.decode(outputs, run.fixture.sizes)
    run.model.train()
    for image, found in enumerate(candidates):
        keep = batched_nms(found.boxes, found.scores, found.labels, 0.5)[:100]
        names = ("boxes", "scores", "labels")
        want = [torch.from_numpy(run.fixture.arrays[f"pred/{image}/{name}"]) for name in names]
        got = (found.boxes[keep], found.scores[keep], found.labels[keep])
        assert num_agreeing((want[0], want[1], want[2]), got) >= 98
