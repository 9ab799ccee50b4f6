"""What dense heads estimate about their boxes: densities, and variances of the sides."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from detcli.losses.box import deviation
from detcli.models.dense.matching import assign_batch, collect_matches
from detcli.models.dense.tower import flatten_levels
from detcli.types import Target
from tests.models.specs import BRANCHED_DETECTORS, SMALL_OF, detector, target, tiny

CANVAS = (64, 96)


CLASSES = 3


ALL = {"score_threshold": 0.0, "topk_per_level": 100_000}


ASKED = {"box_loss": {"name": "kl"}, "density_branch": {}}


each_detector = pytest.mark.parametrize("name", BRANCHED_DETECTORS)


def crowd() -> list[Target]:
    """Two of a class that overlap by a third, one of another class on top of them; and nothing."""
    boxes = [[10, 12, 42, 60], [26, 12, 58, 60], [10, 12, 42, 60]]
    return [target(boxes, [1, 1, 2], CANVAS), target([], [], (64, 64))]


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *CANVAS, generator=torch.Generator().manual_seed(1))


def model_of(name: str, **changes: Any) -> nn.Module:
    return detector(name, SMALL_OF[name], tiny(name), changes, num_classes=CLASSES)


@functools.cache
def forward(name: str) -> tuple[nn.Module, Any]:
    """A detector with all estimates and its outputs; that its losses reach every parameter is in
    test_auxiliary.py."""
    model = model_of(name, **ASKED, **ALL, iou_branch={"alpha": 0.0})
    with torch.no_grad():
        return model, model(images())


boxes = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 12)] * 2)


@each_detector
def test_the_first_variances_are_about_the_unit(name: str) -> None:
    model, outputs = forward(name)
    assert all(level.abs().max() < 0.05 for level in outputs.sigma)
    assert model.head.sigma.weight.std().item() == pytest.approx(1e-4, rel=0.1)


@each_detector
def test_columns_are_those_of_the_candidates_own_priors(name: str) -> None:
    """Every prior and class is a candidate, and each map holds another number in every cell."""
    model, outputs = forward(name)
    generator = torch.Generator().manual_seed(2)
    wide = outputs._replace(
        sigma=tuple(torch.rand(level.shape, generator=generator) for level in outputs.sigma),
        density=tuple(
            torch.rand(level.shape, generator=generator) * 2 - 0.5 for level in outputs.density
        ),
    )
    with torch.no_grad():
        found = model.decode(wide, [CANVAS, (64, 64)])[0]
    grid = model.points if name in ("fcos", "nas_fcos") else model.anchors
    priors = grid(outputs.boxes, CANVAS)
    sigma = deviation(flatten_levels(wide.sigma, 4)[0]) * model.coder.side_units(priors)
    density = flatten_levels(wide.density, 1)[0].clamp(0, 1)
    iou = flatten_levels(outputs.iou, 1)[0].sigmoid()
    box = model.coder.decode(flatten_levels(outputs.boxes, 4)[0], priors)
    limits = torch.tensor([CANVAS[1], CANVAS[0]] * 2)
    rows = torch.cat([box.clamp(min=0).minimum(limits), sigma, density, iou], dim=1)
    columns = [found.extra[name] for name in ("density", "iou")]
    mine = torch.cat([found.boxes, found.extra["sigma"], torch.stack(columns, 1)], dim=1)
    some = torch.arange(0, len(mine), max(1, len(mine) // 200))
    assert torch.cdist(mine[some].double(), rows.double()).amin(dim=1).max() < 1e-4
    assert found.extra["sigma"].min() > 0
    assert found.extra["density"].min() == 0  # cut at 0
    assert found.extra["density"].max() == 1


def test_both_are_learned() -> None:
    """With boxes and features as they are, the maps themselves find the densities of their
    objects, and a side that is far off becomes uncertain."""
    model, outputs = forward("atss")
    targets = crowd()
    leaves = {
        key: tuple(level.clone().requires_grad_() for level in getattr(outputs, key))
        for key in ("sigma", "density")
    }
    raw = outputs._replace(**leaves)
    optimizer = torch.optim.Adam([level for maps in leaves.values() for level in maps], lr=0.2)
    priors = model.anchors(raw.boxes, CANVAS)
    matched = assign_batch(model.criterion.assigner, priors, targets, padding="ignored")
    matches = collect_matches(matched, targets, num_classes=CLASSES)
    for _ in range(60):
        losses = model.head_loss(raw, priors, matches, targets)
        optimizer.zero_grad()
        (losses["box"] + losses["density"]).backward()
        optimizer.step()
    learned = flatten_levels(raw.density, 1).flatten()[matches.positive]
    wanted = torch.tensor([1 / 3, 1 / 3, 0.0])[matches.objects]
    torch.testing.assert_close(learned.detach(), wanted, rtol=0, atol=0.02)
    starts = priors.take(matches.prior_index())
    encoded = flatten_levels(raw.boxes, 4).flatten(0, 1)[matches.positive]
    errors = model.coder.decode(encoded, starts) - matches.boxes
    errors = (errors / model.coder.side_units(starts)).abs()
    alpha = flatten_levels(raw.sigma, 4).flatten(0, 1)[matches.positive].detach()
    far = errors > 1
    assert far.any()
    assert alpha[errors > 2].min() > alpha[errors < 0.5].max()
    torch.testing.assert_close(  # where the slope by alpha is 0
        alpha[far].exp(), (2 * errors - 1)[far], rtol=0.1, atol=0.1
    )
