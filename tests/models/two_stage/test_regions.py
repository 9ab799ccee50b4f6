"""What a second stage looks at: samples, pooled regions, its losses and candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from detcli.assign import NEGATIVE, MaxIoUAssigner, RandomSampler, build_assigner
from detcli.models.dense.terms import build_criterion
from detcli.models.two_stage.regions import (
    RegionOutputs,
    image_candidates,
    region_losses,
    region_priors,
    sample_regions,
)
from detcli.ops.coders import DeltaCoder
from detcli.types import Target
from tests.models.specs import SMALL_TWO_STAGE, section, target
from tests.models.two_stage.small import (
    CANVAS,
    batch,
    each_detector,
    random_boxes,
    small,
    some_targets,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_regions_and_what_they_learn() -> None:
    """The objects themselves, then the proposals by their best overlap; ignored ones drop out."""
    proposals = random_boxes(40, seed=2)
    wanted = target(
        [[10, 12, 40, 60], [30, 20, 90, 80]], [2, 0], CANVAS, ignore=[[60, 60, 128, 96]]
    )
    samples = sample_regions(
        [proposals, random_boxes(5)],
        [wanted, target([], [], CANVAS)],
        assigner=MaxIoUAssigner(0.5, 0.5, None),
        sampler=RandomSampler(None, 0.25),
        num_classes=3,
    )
    iou = box_iou(proposals, wanted.boxes)
    best, box = iou.max(dim=1)
    center = (proposals[:, :2] + proposals[:, 2:]) / 2
    ignored = ((center >= 60) & (center <= torch.tensor([128.0, 96.0]))).all(dim=1) & (best < 0.5)
    assert ignored.any()
    kept = proposals[~ignored]
    labels = wanted.labels[box].where(best >= 0.5, 3)[~ignored]
    torch.testing.assert_close(samples.regions[0], torch.cat([wanted.boxes, kept]))
    assert torch.equal(
        samples.matches.labels[0], torch.cat([wanted.labels, labels, torch.full((5,), 3)])
    )
    assert samples.is_object[0].tolist() == [True] * 2 + [False] * len(kept)
    assert samples.is_object[1].tolist() == [False] * 5
    positive = samples.matches.positive
    assert (labels < 3).sum() + 2 == len(positive)
    pairs = torch.cat([wanted.boxes, wanted.boxes[box[~ignored]][labels < 3]])
    torch.testing.assert_close(samples.matches.boxes, pairs)


def test_no_box_takes_its_best_region_below_the_threshold() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    proposals = region_priors(torch.tensor([[0.0, 0, 10, 4], [50, 50, 60, 60]]))
    assert MaxIoUAssigner(0.5, 0.5, None)(proposals, boxes).tolist() == [NEGATIVE, NEGATIVE]
    assert MaxIoUAssigner(0.5, 0.5, 0.3)(proposals, boxes).tolist() == [0, NEGATIVE]


@each_detector
def test_samples_depend_on_the_seed_alone(name: str) -> None:
    changes = {"sampler": {"num": 12}, "rpn": {"sampler": {"num": 20}}}
    model = small(name, changes)
    totals = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs = model(batch(), some_targets())
        totals.append(sum(model.loss(outputs, some_targets()).values()).item())
    assert totals[0] == totals[1] != totals[2]
    assert [len(regions) for regions in outputs.stages[0].regions] == [12, 12]


def losses_by_hand(
    logits: Tensor, deltas: Tensor, samples: Any, stds: tuple[float, ...]
) -> tuple[float, float]:
    """Row by row in plain Python."""
    labels, positive = samples.matches.labels[0], samples.matches.positive
    regions = torch.cat(samples.regions)
    classes = F.cross_entropy(logits, labels, reduction="sum").item() / len(labels)
    box = 0.0
    for row, wanted in zip(positive.tolist(), samples.matches.boxes, strict=True):
        x1, y1, x2, y2 = regions[row].tolist()
        a, b, c, d = wanted.tolist()
        code = [
            ((a + c) / 2 - (x1 + x2) / 2) / (x2 - x1),
            ((b + d) / 2 - (y1 + y2) / 2) / (y2 - y1),
            torch.tensor((c - a) / (x2 - x1)).log().item(),
            torch.tensor((d - b) / (y2 - y1)).log().item(),
        ]
        mine = deltas[row]
        if len(mine) > 4:
            label = int(labels[row])
            mine = mine[4 * label : 4 * label + 4]
        box += sum(abs(m - c / s) for m, c, s in zip(mine.tolist(), code, stds, strict=True))
    return classes, box / len(labels)


@pytest.mark.parametrize("width", [12, 4], ids=["each class", "agnostic"])
def test_losses_of_regions(width: int) -> None:
    targets = some_targets()
    criterion, samples = region_case(targets)
    count = samples.matches.labels.shape[1]
    logits = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    deltas = torch.randn(count, width, generator=torch.Generator().manual_seed(2))
    stds = (0.1, 0.1, 0.2, 0.2)
    outputs = RegionOutputs(samples.regions, logits, deltas, None, (), samples)
    got = region_losses(criterion, DeltaCoder(stds), outputs)
    want = losses_by_hand(logits, deltas, samples, stds)
    assert [value.item() for value in got] == pytest.approx(want, rel=1e-5)


def region_case(targets: list[Target], **changes: Any) -> tuple[Any, Any]:
    options = section("faster_rcnn", SMALL_TWO_STAGE, changes)
    criterion = build_criterion(options, build_assigner(options.assigner))
    samples = sample_regions(
        [random_boxes(60, seed=image) for image in range(len(targets))],
        targets,
        assigner=criterion.assigner,
        sampler=RandomSampler(None, 0.25),
        num_classes=3,
    )
    return criterion, samples


def test_mining_looks_at_each_image_and_weights_multiply() -> None:
    """Three of background for each region with an object; the second image has none."""
    targets = [some_targets()[0], target([], [], CANVAS)]
    ohem = {"name": "hardest", "negatives_per_object": 2.0}
    weights = (0.5, 1.0, 2.0)
    criterion, samples = region_case(targets, class_loss={"name": "softmax", "ohem": ohem})
    criterion = replace(criterion, class_weights=weights)
    labels = samples.matches.labels[0]
    logits = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(1))
    each = F.cross_entropy(logits, labels, reduction="none")
    total, start = 0.0, 0
    for regions in samples.regions:
        own, loss = labels[start : start + len(regions)], each[start : start + len(regions)]
        objects = own < 3
        factor = torch.tensor(weights)[own[objects]]
        kept = int(2 * max(1, objects.sum()))
        total += (loss[objects] * factor).sum() + loss[~objects].sort(descending=True)[0][
            :kept
        ].sum()
        start += len(regions)
    deltas = torch.zeros(len(labels), 4)
    outputs = RegionOutputs(samples.regions, logits, deltas, None, (), samples)
    got, _ = region_losses(criterion, DeltaCoder(), outputs)
    assert got.item() == pytest.approx(float(total) / len(labels), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("box_loss", ["giou", "eiou", "smooth_l1", "l2"])
@each_detector
def test_box_losses_and_small_boxes(name: str, box_loss: str) -> None:
    totals = []
    for factor in (None, 2.0):
        model = small(name, {"box_loss": {"name": box_loss, "small_box_factor": factor}})
        losses = model.loss(model(batch(), some_targets()), some_targets())
        boxes = [value for term, value in losses.items() if term.startswith("box")]
        totals.append(sum(boxes).item())
        sum(losses.values()).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert 0 < 2 * totals[0] < totals[1] <= 4 * totals[0]


def test_candidates_of_regions() -> None:
    scores = torch.tensor([[0.6, 0.3], [0.04, 0.7], [0.3, 0.02]])
    regions = torch.tensor([[0.0, 0, 10, 10], [20, 20, 60, 60], [5, 5, 9, 200]])
    deltas = torch.zeros(3, 8)
    deltas[1, 4:] = torch.tensor([1.0, 0, 0, 0])  # class 1 of the second: a tenth of its width
    columns = {"sigma": torch.arange(24).view(3, 8) / 8, "density": torch.tensor([0.1, 0.2, 0.3])}
    found = image_candidates(
        scores,
        deltas,
        regions,
        coder=DeltaCoder((0.1, 0.1, 0.2, 0.2)),
        score_threshold=0.05,
        size=(100, 62),
        columns=columns,
    )
    torch.testing.assert_close(found.scores, torch.tensor([0.7, 0.6, 0.3, 0.3]))
    assert found.labels.tolist() == [1, 0, 1, 0]
    want = torch.tensor([[24.0, 20, 62, 60], [0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 9, 100]])
    torch.testing.assert_close(found.boxes, want)
    torch.testing.assert_close(found.extra["density"], torch.tensor([0.2, 0.1, 0.1, 0.3]))
    alpha = torch.tensor([12.0, 0, 4, 16])[:, None] + torch.arange(4)  # each of its own class
    side = torch.tensor([[40, 40], [10, 10], [10, 10], [4, 195]]).repeat(1, 2)
    torch.testing.assert_close(found.extra["sigma"], (alpha / 16).exp() * side * 0.1)
