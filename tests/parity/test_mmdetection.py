"""Numbers of MMDetection's own detectors, from weights that are a function of their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detcli.layers.norm import use_running_statistics
from detcli.models.dense.matching import Padding, match_batch
from detcli.weights import convert_mmdetection
from tests.fixtures.reference import LOSS_LIMIT, Fixture
from tests.models.specs import (
    ATSS_MM,
    FCOS_MM,
    GA_RETINANET_MM,
    NAS_FCOS_MM,
    RETINANET_MM,
    criterion_of,
    detector,
)

pytestmark = pytest.mark.slow

# No chance: every cell that was assigned a shape learns it.
GA_RETINANET_ALL = {
    **GA_RETINANET_MM,
    "guidance": {"location_target": "rest", "sampler": {"num": None}},
}


@dataclass(frozen=True)
class Case:
    name: str
    detector: str
    changes: dict[str, Any]
    iou_threshold: float
    padding: Padding


CASES = [
    Case("mm_retinanet_r50", "retinanet", RETINANET_MM, 0.5, "ignored"),
    Case("mm_atss_r50", "atss", ATSS_MM, 0.6, "ignored"),
    Case("mm_fcos_r50_caffe", "fcos", FCOS_MM, 0.5, "seen"),
    Case("mm_nasfcos_r50_caffe", "nas_fcos", NAS_FCOS_MM, 0.6, "seen"),
    Case("mm_ga_retinanet_r50_caffe", "ga_retinanet", GA_RETINANET_ALL, 0.5, "ignored"),
    Case("mm_vfnet_r50", "vfnet", {}, 0.6, "background"),
    Case("mm_ssd300", "ssd", {}, 0.45, "seen"),
]


@dataclass
class Run:
    case: Case
    fixture: Fixture
    model: nn.Module
    names: dict[str, str]
    backbone: tuple[Tensor, ...]
    neck: tuple[Tensor, ...]
    outputs: Any
    losses: dict[str, Tensor]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def run(request: pytest.FixtureRequest) -> Run:
    """Forward, losses and backward of the fixture's batch in training mode, once per detector."""
    case: Case = request.param
    fixture = Fixture(case.name)
    model = detector(case.detector, case.changes)
    report = convert_mmdetection(fixture.state, model)
    model.train()
    use_running_statistics(model)
    kept: dict[str, Any] = {}
    for part in ("backbone", "neck"):
        getattr(model, part).register_forward_hook(
            lambda _module, _inputs, output, part=part: kept.__setitem__(part, output)
        )
    outputs = model(fixture.images)
    losses = model.loss(outputs, fixture.targets)
    sum(losses.values()).backward()
    return Run(
        case, fixture, model, dict(report.names), kept["backbone"], kept["neck"], outputs, losses
    )


def test_features_and_raw_outputs(run: Run) -> None:
    outputs = {"cls_score": run.outputs.class_logits, "bbox_pred": run.outputs.boxes}
    if "centerness" in run.outputs._fields:
        outputs["centerness"] = run.outputs.centerness
    if "shapes" in run.outputs._fields:
        outputs |= {"shape_pred": run.outputs.shapes, "loc_pred": run.outputs.locations}
    if "first_boxes" in run.outputs._fields:
        outputs |= {"bbox_pred": run.outputs.first_boxes, "bbox_pred_refine": run.outputs.boxes}
    run.fixture.check_levels("feat/backbone", run.backbone)
    run.fixture.check_levels("feat/neck", run.neck)
    for name, levels in outputs.items():
        run.fixture.check_levels(f"raw/{name}", levels)


def test_assigned_classes(run: Run) -> None:
    guided = run.case.detector == "ga_retinanet"
    grid = run.model.guidance.squares if guided else run.model.priors
    priors = grid(run.outputs.boxes, run.outputs.canvas)
    of_each = [priors] * len(run.fixture.targets)
    if guided:
        of_each = run.model.guidance.anchors(run.outputs.shapes, run.outputs.canvas)
    matches = [
        match_batch(
            criterion_of(run.model).assigner,
            own,
            [target],
            num_classes=80,
            padding=run.case.padding,
        )
        for own, target in zip(of_each, run.fixture.targets, strict=True)
    ]
    all_labels = torch.cat([match.labels for match in matches])
    labels = all_labels.where(all_labels >= 0, 80)  # ignored: background, without weight
    for index, level in enumerate(labels.split(priors.level_sizes, dim=1)):
        want = run.fixture.arrays[f"target_labels/{index}"]
        np.testing.assert_array_equal(want.reshape(level.shape), level.numpy())


def test_losses(run: Run) -> None:
    names = {"class": "loss_cls", "box": "loss_bbox", "centerness": "loss_centerness"}
    names |= {"location": "loss_loc", "shape": "loss_shape"}
    if "first_box" in run.losses:
        names |= {"first_box": "loss_bbox", "box": "loss_bbox_rf"}
    run.fixture.check_losses(run.losses, names)


def test_losses_without_the_empty_image(run: Run) -> None:
    if run.case.detector == "ssd":  # its fixture has no such image
        assert all(len(target.boxes) for target in run.fixture.targets)
        return
    with torch.no_grad():
        outputs = run.model(run.fixture.images[:2])
        losses = run.model.loss(outputs, run.fixture.targets[:2])
    want = float(run.fixture.arrays["loss_without_empty_image/total"])
    assert sum(losses.values()).item() == pytest.approx(want, rel=LOSS_LIMIT)


def test_gradient_norms(run: Run) -> None:
    parts = {"backbone": "backbone", "neck": "neck", "bbox_head": "head"}
    run.fixture.check_gradients(run.model, parts, run.names)


def test_final_boxes(run: Run) -> None:
    run.model.eval()
    with torch.no_grad():
        candidates = run.model.decode(run.model(run.fixture.images), run.fixture.sizes)
    run.model.train()
    run.fixture.check_boxes(candidates, run.case.iou_threshold)
