"""Detectors with a second stage: variances of its sides, densities of the first stage."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from detcli.models.dense.tower import flatten_levels
from detcli.ops.boxes import clip_boxes
from detcli.types import Target
from tests.models.specs import target
from tests.models.two_stage.small import CANVAS, batch, small, some_targets, wide_awake

SIZES = [CANVAS, (64, 96)]
ASKED = {"box_loss": {"name": "kl"}, "density_branch": {}}
ONE_LOOK = ("faster_rcnn", "ga_faster_rcnn")
EMPTY = [target([], [], CANVAS), target([], [], (64, 96))]

pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def evaluated(name: str) -> tuple[nn.Module, Any]:
    """One with both, whose maps of densities hold another number for every anchor, and its outputs
    in evaluation."""
    model = wide_awake(small(name, ASKED, {"score_threshold": 0.0})).eval()
    generator = torch.Generator().manual_seed(2)
    nn.init.normal_(model.head.sigma.weight, std=0.1)

    def other_densities(rpn: nn.Module, _: Any, raw: Any) -> Any:
        maps = [torch.rand(level.shape, generator=generator) for level in raw.density]
        return raw._replace(density=tuple(maps))

    with torch.no_grad(), model.rpn.register_forward_hook(other_densities):
        return model, model(batch(), sizes=SIZES)


@pytest.mark.parametrize("name", ONE_LOOK)
@pytest.mark.parametrize("targets", [some_targets(), EMPTY], ids=["some", "none"])
def test_two_stages_are_finite_and_reach_every_parameter(name: str, targets: list[Target]) -> None:
    model = small(name, ASKED)
    losses = model.loss(model(batch(), targets), targets)
    assert {"rpn_density", "box"} < set(losses)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    there = targets[0].boxes.numel() > 0
    assert (model.head.sigma.weight.grad.abs().max() > 0) == there
    assert (model.rpn.density.reduce.weight.grad.abs().max() > 0) == there
    assert there or losses["box"] == losses["rpn_density"] == 0


@pytest.mark.parametrize("name", ONE_LOOK)
def test_a_proposal_keeps_the_density_of_its_anchor(name: str) -> None:
    model, outputs = evaluated(name)
    rpn = outputs.first.rpn
    if name == "ga_faster_rcnn":
        anchors = model.rpn.guidance.anchors(rpn.shapes, CANVAS)
    else:
        anchors = [model.rpn.anchors(rpn.boxes, CANVAS)] * 2
    deltas, density = flatten_levels(rpn.boxes, 4), flatten_levels(rpn.density, 1)
    for image, size in enumerate(SIZES):
        decoded = model.rpn.proposals.coder.decode(deltas[image], anchors[image])
        decoded = clip_boxes(decoded, size)
        proposals = outputs.stages[0].regions[image]
        nearest = (decoded[None] - proposals[:, None]).abs().amax(dim=2).min(dim=1)
        assert nearest.values.max() < 1e-3
        torch.testing.assert_close(
            outputs.stages[0].densities[image], density[image, nearest.indices, 0]
        )


@pytest.mark.parametrize("name", ONE_LOOK)
def test_columns_of_a_second_stage(name: str) -> None:
    model, outputs = evaluated(name)
    with torch.no_grad():
        found = model.decode(outputs, SIZES)
    for candidates, densities in zip(found, outputs.stages[0].densities, strict=True):
        assert candidates.extra["sigma"].shape == candidates.boxes.shape
        assert candidates.extra["sigma"].min() > 0
        assert set(candidates.extra["density"].tolist()) == set(densities.tolist())
