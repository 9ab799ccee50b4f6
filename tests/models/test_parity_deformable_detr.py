"""Numbers of fundamentalvision/Deformable-DETR itself, from weights that are a function of their
names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detcli.assign.hungarian import wanted_of
from detcli.layers.positions import valid_cells
from detcli.models.convert import (
    PublicWeights,
    convert_deformable_detr,
    recognise_deformable_detr,
)
from tests.models.fixtures import Fixture, num_agreeing
from tests.models.specs import detector
from tests.paths import needs_shared

pytestmark = needs_shared

# Of the fixtures' own README: errors of raw outputs grow from layer to layer.
RAW_LIMIT, LOSS_LIMIT, GRADIENT_LIMIT, KINK_LIMIT = 2e-4, 1e-4, 1e-3, 3e-2
TERMS = {"class": ("loss_ce", 2.0), "l1": ("loss_bbox", 5.0), "box": ("loss_giou", 2.0)}
PARTS = {"backbone": "backbone", "class_embed": "head", "bbox_embed": "head"}
NUM_IDS = 91  # all of COCO's category ids, as in the checkpoint


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
    """Forward, losses and backward of the fixture's batch in training mode, nothing dropped."""
    fixture = Fixture("st_deformable_detr")
    model = detector("deformable_detr", {"transformer": {"dropout": 0.0}}, num_classes=NUM_IDS)
    report = convert_deformable_detr(fixture.state, model)
    assert set(report.names) == set(fixture.state)
    model.train()
    kept: list[tuple[Tensor, ...]] = []
    model.backbone.register_forward_hook(lambda _module, _inputs, maps: kept.append(maps))
    outputs = model(fixture.images, fixture.targets)
    losses = model.loss(outputs, fixture.targets)
    sum(losses.values()).backward()
    return Run(fixture, model, dict(report.names), kept[0][1:], outputs, losses)


def test_facts_of_the_checkpoint(run: Run) -> None:
    facts = recognise_deformable_detr(PublicWeights(run.fixture.state, None), "memory")
    assert (facts.detector, facts.depth, facts.variant) == ("deformable_detr", 50, None)
    assert facts.num_classes == 80


def test_features_masks_and_positions(run: Run) -> None:
    fixture = run.fixture
    canvas = (fixture.images.shape[-2], fixture.images.shape[-1])
    for level, features in enumerate(run.backbone):
        assert fixture.error(f"feat/backbone/{level}", features) < RAW_LIMIT
        cells = (features.shape[-2], features.shape[-1])
        valid = valid_cells(fixture.sizes, canvas, cells, torch.device("cpu"))
        want = fixture.arrays[f"mask/{level}"].astype(bool)
        np.testing.assert_array_equal(want, ~valid.numpy())
        codes = run.model.positions(valid).permute(0, 3, 1, 2)
        assert fixture.error(f"pos_encoding/{level}", codes) < RAW_LIMIT


def test_raw_outputs_of_every_layer(run: Run) -> None:
    layers = len(run.outputs.boxes)
    for layer in range(layers):
        where = "raw" if layer == layers - 1 else f"raw/aux{layer}"
        logits, boxes = run.outputs.class_logits[layer], run.outputs.boxes[layer]
        assert run.fixture.error(f"{where}/logits", logits) < RAW_LIMIT, layer
        assert run.fixture.error(f"{where}/boxes_cxcywh", boxes) < RAW_LIMIT, layer


def test_matches(run: Run) -> None:
    wanted = [wanted_of(t, t.size) for t in run.fixture.targets]
    logits, boxes = (torch.stack(part) for part in run.outputs[:2])
    pairs = run.model.criterion.assigner(logits, boxes, wanted)
    first = 0
    for image, objects in enumerate(wanted):
        of_image = pairs.image == image
        np.testing.assert_array_equal(
            run.fixture.arrays[f"match/{image}/query"], pairs.query[-1, of_image].numpy()
        )
        np.testing.assert_array_equal(
            run.fixture.arrays[f"match/{image}/target"], pairs.object[-1, of_image].numpy() - first
        )
        first += len(objects.labels)


def test_losses(run: Run) -> None:
    assert len(run.losses) == 18
    for name, value in run.losses.items():
        term, _, layer = name.partition("_")
        theirs, weight = TERMS[term]
        key = f"loss/{theirs}_{int(layer) - 1}" if layer else f"loss/{theirs}"
        want = weight * float(run.fixture.arrays[key])
        assert value.item() == pytest.approx(want, rel=LOSS_LIMIT), name
    total = float(run.fixture.arrays["loss/total"])
    assert sum(run.losses.values()).item() == pytest.approx(total, rel=LOSS_LIMIT)


def test_gradient_norms(run: Run) -> None:
    parameters = dict(run.model.named_parameters())
    buffers = dict(run.model.named_buffers())
    names = [str(name) for name in run.fixture.arrays["grad_param/names"]]
    norms = run.fixture.arrays["grad_param/norms"]
    errors = []
    squares = {"backbone": 0.0, "transformer": 0.0, "head": 0.0}
    for name, want in zip(names, norms, strict=True):
        own = run.names[name]
        if np.isnan(want):
            assert own in buffers or not parameters[own].requires_grad, name
            continue
        got = parameters[own].grad.double().norm().item()
        errors.append(abs(got - want) / want)
        squares[PARTS.get(name.split(".")[0], "transformer")] += got**2
    # Bilinear samples have a kink at every cell: the last bit of a place decides on which side of
    # it the slope is taken; torchvision's ResNet in the place of ours changes the same few norms.
    # Not explained by that: reference_points.bias, 1.7 % off with either 3x3 convolution of ours.
    assert np.quantile(errors, 0.9) < GRADIENT_LIMIT
    assert max(errors) < KINK_LIMIT
    for part, square in squares.items():
        want = float(run.fixture.arrays[f"grad/{part}"])
        assert math.sqrt(square) == pytest.approx(want, rel=GRADIENT_LIMIT), part


def test_final_boxes(run: Run) -> None:
    run.model.eval()
    with torch.no_grad():
        outputs = run.model(run.fixture.images, sizes=run.fixture.sizes)
        candidates = run.model.decode(outputs, run.fixture.sizes)
    run.model.train()
    for image, found in enumerate(candidates):
        names = ("boxes", "scores", "labels")
        want = [torch.from_numpy(run.fixture.arrays[f"pred/{image}/{name}"]) for name in names]
        assert len(found.scores) == 100
        assert (found.scores.diff() <= 0).all()
        got = (found.boxes, found.scores, found.labels)
        assert num_agreeing((want[0], want[1], want[2]), got) >= 98
