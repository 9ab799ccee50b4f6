"""What a second stage looks at: samples, pooled regions, its losses and candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, box_iou, roi_align, roi_pool

from detcli.assign import IGNORED, NEGATIVE, MaxIoUAssigner, RandomSampler, build_assigner
from detcli.models.dense.terms import build_criterion
from detcli.models.two_stage.regions import (
    RegionHead,
    RegionOutputs,
    image_candidates,
    region_losses,
    region_priors,
    sample_regions,
)
from detcli.models.two_stage.roi_pool import RegionPooler
from detcli.ops.coders import DeltaCoder
from detcli.recipe.sections.models import two_stage as sections
from detcli.recipe.sections.models.two_stage import Pooler
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


# Samples


def test_sampler_keeps_its_share_and_its_number() -> None:
    matched = torch.full((400,), NEGATIVE)
    matched[:60] = torch.arange(60)
    matched[60:100] = IGNORED
    torch.manual_seed(0)
    sampler = RandomSampler(100, 0.25)
    first, second = sampler(matched), sampler(matched)
    for drawn in (first, second):
        assert (drawn >= 0).sum() == 25
        assert (drawn == NEGATIVE).sum() == 75
        kept = drawn != IGNORED
        assert torch.equal(drawn[kept], matched[kept])
    assert not torch.equal(first, second)
    few = torch.cat([matched[:3], matched[100:150]])
    drawn = sampler(few)
    assert (drawn >= 0).sum() == 3  # background fills the rest, as far as there is any
    assert (drawn == NEGATIVE).sum() == 50
    only_objects = sampler(matched[:60])
    assert (only_objects >= 0).sum() == 25
    torch.manual_seed(0)
    assert torch.equal(sampler(matched), first)
    assert torch.equal(RandomSampler(None, 0.25)(matched), matched)


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
    raw = outputs.stages[0] if name == "cascade_rcnn" else outputs.second
    assert [len(regions) for regions in raw.regions] == [12, 12]


# Regions


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_pooler_takes_the_level_that_fits(aligned: bool, ratio: int) -> None:
    pooler = RegionPooler(
        (4, 8, 16),
        Pooler(
            name="roi_align",
            side=3,
            scale=4.0,
            sampling_ratio=ratio,
            aligned=aligned,
            context=None,
        ),
    )
    maps = [torch.randn(2, 5, 96 // s, 128 // s, requires_grad=True) for s in (4, 8, 16, 32)]
    sides = [3.0, 15.9, 16.0, 31.0, 32.0, 63.0, 64.0, 90.0]
    boxes = torch.tensor([[1.5, 2.0, 1.5 + side, 2.0 + side] for side in sides])
    levels = [0, 0, 0, 0, 1, 1, 2, 2]
    assert pooler.levels(boxes).tolist() == levels
    pooled = pooler(maps, [boxes[::2], boxes[1::2]])
    assert pooled.shape == (8, 5, 3, 3)
    for place, index in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        level = levels[index]
        row = torch.cat([torch.tensor([float(index % 2)]), boxes[index]])[None]
        want = roi_align(maps[level], row, 3, 0.25 / 2**level, ratio, aligned)
        torch.testing.assert_close(pooled[place], want[0])
    pooled.sum().backward()
    assert all(level.grad is not None for level in maps[:3])


def test_pooler_is_torchvisions() -> None:
    pooler = RegionPooler(
        (4, 8, 16, 32),
        Pooler(
            name="roi_align",
            side=7,
            scale=14.0,
            sampling_ratio=2,
            aligned=False,
            context=None,
        ),
    )
    maps = [torch.randn(2, 4, 256 // s, 320 // s) for s in (4, 8, 16, 32)]
    regions = [random_boxes(20, seed=1, scale=2.0), random_boxes(15, seed=2, scale=3.0)]
    peer = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = {str(level): values for level, values in enumerate(maps)}
    want = peer(named, regions, [(256, 320), (256, 320)])
    torch.testing.assert_close(pooler(maps, regions), want)


def test_rounded_pooling() -> None:
    """Whole cells, the largest value: what the notes compare RoIAlign with."""
    pooler = RegionPooler((8,), Pooler(name="roi_pool", side=2))
    features = torch.arange(48.0).view(1, 1, 6, 8)
    boxes = torch.tensor([[7.0, 7.0, 33.0, 25.0]])  # cells 1 to 4, and 1 to 3
    got = pooler([features], [boxes])
    assert got.flatten().tolist() == [18.0, 20.0, 26.0, 28.0]  # the middle row is in both halves
    want = roi_pool(features, [boxes], 2, 1 / 8)
    assert torch.equal(got, want)


def test_what_surrounds_a_region_is_pooled_beside_it() -> None:
    options = {
        "name": "roi_align",
        "side": 3,
        "scale": 4.0,
        "sampling_ratio": 2,
        "aligned": True,
    }
    plain = RegionPooler((8, 16), Pooler(context=None, **options))
    pooler = RegionPooler((8, 16), Pooler(context=2.0, **options))
    maps = [torch.randn(1, 5, 12, 16), torch.randn(1, 5, 6, 8)]
    boxes = torch.tensor([[20.0, 20, 44, 44], [30, 10, 90, 80]])
    around = torch.tensor([[8.0, 8, 56, 56], [0, -25, 120, 115]])
    got = pooler(maps, [boxes])
    assert pooler.num_features(5) == got[0].numel() == 2 * plain.num_features(5)
    torch.testing.assert_close(got[:, :5], plain(maps, [boxes]))
    torch.testing.assert_close(got[:, 5:], plain(maps, [around]))
    assert plain.levels(boxes).tolist() == [0, 1]


def test_no_regions_at_all() -> None:
    pooler = RegionPooler(
        (8, 16),
        Pooler(
            name="roi_align",
            side=3,
            scale=4.0,
            sampling_ratio=0,
            aligned=True,
            context=None,
        ),
    )
    maps = [torch.randn(2, 4, 12, 16, requires_grad=True), torch.randn(2, 4, 6, 8)]
    layers = sections.RegionHead(num_fcs=2, channels=8)
    head = RegionHead(4 * 9, layers, num_classes=3, class_agnostic=False, sigma=True)
    logits, deltas, alpha = head(pooler(maps, [torch.zeros(0, 4)] * 2))
    assert logits.shape == (0, 4)
    assert deltas.shape == alpha.shape == (0, 12)
    (logits.sum() + deltas.sum() + alpha.sum()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert maps[0].grad is not None


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
