"""The predicted IoU: its loss, its share in the scores, and the column of the candidates."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detcli.models.dense.iou_branch import IoUBranch
from detcli.models.dense.matching import Matches
from detcli.models.dense.tower import flatten_levels
from detcli.ops.coders import DeltaCoder
from detcli.ops.priors import Priors
from tests.models.specs import BRANCHED_DETECTORS, SMALL_OF, detector, target, tiny

CANVAS = (64, 96)
CLASSES = 3
ALL = {"score_threshold": 0.0, "topk_per_level": 100_000}


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *CANVAS, generator=torch.Generator().manual_seed(1))


def model_of(name: str, **changes: Any) -> nn.Module:
    return detector(name, SMALL_OF[name], tiny(name), changes, num_classes=CLASSES).eval()


@functools.cache
def forward(name: str) -> tuple[nn.Module, Any]:
    """A detector that takes every prior and class as a candidate, and outputs of an image."""
    model = model_of(name, iou_branch={}, **ALL)
    nn.init.normal_(model.head.class_logits.weight, std=0.05)
    with torch.no_grad():
        return model, with_random_ious(model(images(1)))


def with_random_ious(outputs: Any) -> Any:
    generator = torch.Generator().manual_seed(2)
    maps = [torch.randn(level.shape, generator=generator) for level in outputs.iou]
    return outputs._replace(iou=tuple(maps))


def test_the_loss_is_cross_entropy_against_the_iou_of_the_decoded_box() -> None:
    corners = torch.tensor([[0.0, 0, 8, 8], [8.0, 0, 16, 8], [16.0, 0, 24, 8]])
    centers = (corners[:, :2] + corners[:, 2:]) / 2
    priors = Priors(corners, centers, torch.full((3,), 8.0), (3,))
    labels = torch.tensor([[0, 3, 3], [3, 3, 1]])
    boxes = torch.tensor([[0.0, 0, 8, 8], [16.0, 0, 24, 8]])
    matches = Matches(
        labels, torch.tensor([0, 5]), torch.arange(2), boxes, torch.ones(2), torch.tensor([1, 1])
    )
    encoded = torch.tensor([[0.0, 0, 0, 0], [0.5, 0, 0, 0]], requires_grad=True)  # IoU 1 and 1/3
    maps = torch.tensor([[0.7, 5.0, 5.0], [5.0, 5.0, -0.4]], requires_grad=True)
    positive = priors.take(matches.prior_index())
    got = IoUBranch(weight=2.0, alpha=0.5).loss(
        (maps.view(2, 1, 1, 3),), DeltaCoder(), encoded, matches, positive
    )
    p, q = 1 / (1 + math.exp(-0.7)), 1 / (1 + math.exp(0.4))
    want = -2 * (math.log(p) + math.log(q) / 3 + 2 / 3 * math.log(1 - q))
    assert got.item() == pytest.approx(want, rel=1e-6)
    slope, to_boxes = torch.autograd.grad(got, [maps, encoded], allow_unused=True)
    assert to_boxes is None
    wanted = [[2 * (p - 1), 0, 0], [0, 0, 2 * (q - 1 / 3)]]
    torch.testing.assert_close(slope, torch.tensor(wanted))


@pytest.mark.parametrize("name", BRANCHED_DETECTORS)
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_scores_and_column(name: str, alpha: float) -> None:
    """Every prior and class is a candidate: the rows are all combinations, best class score of
    each level first; what follows from the maps directly must be the same."""
    model, outputs = forward(name)
    iou = IoUBranch(weight=1.0, alpha=alpha)
    model.head.estimates = replace(model.head.estimates, iou=iou)
    (found,) = model.decode(outputs, [CANVAS])
    start = 0
    for level, (logits, ious) in enumerate(zip(outputs.class_logits, outputs.iou, strict=True)):
        p = flatten_levels((logits,), CLASSES)[0].double().sigmoid()
        iou = flatten_levels((ious,), 1)[0].double().sigmoid()  # (P, 1)
        selected = p ** (1 - alpha) * iou**alpha
        center = torch.ones_like(iou)
        if name != "retinanet":
            center = outputs.centerness[level].double().sigmoid().reshape(-1, 1)
        rows = slice(start, start := start + p.numel())
        order = (selected * center).flatten().argsort(stable=True)
        mine = found.scores[rows].double().argsort(stable=True)
        wanted = (selected * center).flatten()[order].float()
        torch.testing.assert_close(found.scores[rows][mine], wanted, rtol=1e-4, atol=1e-7)
        column = found.extra["iou"][rows]
        assert column.min() > 0
        assert column.max() < 1
        if alpha < 1:
            assert_same_pairs(found.scores[rows], column, (selected * center).float(), iou.float())
    assert start == len(found.scores)


def assert_same_pairs(score: Tensor, column: Tensor, scores: Tensor, ious: Tensor) -> None:
    """Each (score, iou) of the candidates belongs to one of the priors."""
    mine = torch.stack([score, column], dim=1)
    wanted = torch.stack([scores.flatten(), ious.expand_as(scores).flatten()], dim=1)
    nearest = torch.cdist(mine[:300].double(), wanted.double()).amin(dim=1)
    assert nearest.max() < 1e-5


def test_sqrt_product_of_fcos_takes_the_rated_score() -> None:
    model = model_of("fcos", iou_branch={"alpha": 0.4}, score="sqrt_product", **ALL)
    with torch.no_grad():
        outputs = with_random_ious(model(images(1)))
        (found,) = model.decode(outputs, [CANVAS])
    rated = [
        (level.sigmoid() ** 0.6 * iou.sigmoid() ** 0.4 * center.sigmoid()).sqrt().flatten()
        for level, iou, center in zip(
            outputs.class_logits, outputs.iou, outputs.centerness, strict=True
        )
    ]
    torch.testing.assert_close(found.scores.sort().values, torch.cat(rated).sort().values)


@pytest.mark.parametrize("name", ["retinanet", "atss"])
def test_alpha_0_only_adds_the_column(name: str) -> None:
    model, plain = model_of(name, iou_branch={"alpha": 0.0}), model_of(name)
    plain.load_state_dict(
        {key: value for key, value in model.state_dict().items() if "head.iou." not in key}
    )
    targets = [target([[10, 12, 40, 60]], [0], CANVAS), target([[20, 3, 60, 60]], [1], CANVAS)]
    with torch.no_grad():
        outputs, plain_outputs = model(images()), plain(images())
        found, wanted = (
            m.decode(o, [CANVAS, CANVAS]) for m, o in ((model, outputs), (plain, plain_outputs))
        )
        losses, fewer = model.loss(outputs, targets), plain.loss(plain_outputs, targets)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.boxes, b.boxes)
        assert set(a.extra) == {"iou"}
        assert b.extra == {}
    assert set(losses) == set(fewer) | {"iou"}
    assert losses["iou"] > 0
    assert all(torch.equal(losses[term], fewer[term]) for term in fewer)


def test_the_branch_learns_the_iou() -> None:
    """With boxes that stay as they are, the predicted IoU approaches the true one."""
    model = model_of("atss", iou_branch={"alpha": 0.5})
    targets = [target([[10, 12, 40, 60]], [0], CANVAS), target([[20, 3, 60, 60]], [1], CANVAS)]
    with torch.no_grad():
        outputs = model(images())
    maps = [level.requires_grad_() for level in outputs.iou]
    optimizer = torch.optim.Adam(maps, lr=0.2)
    values = []
    for _ in range(60):
        loss = model.loss(outputs, targets)["iou"]
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    flat = torch.cat([level.grad.flatten() for level in maps])
    assert values[-1] < values[0]
    assert flat.abs().max() < 0.02  # p - IoU of each positive, over their number
