"""Every loss in every detector, and what the detectors' terms do with the losses' options."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detcli.assign import IGNORED
from detcli.losses import BOX_LOSSES, CLASS_LOSSES, MINING, SOFTMAX_LOSSES
from detcli.models import ssd
from detcli.models.dense.matching import Matches
from detcli.models.dense.terms import box_quality, box_term, build_criterion, class_term
from detcli.ops.coders import DeltaCoder
from detcli.ops.priors import Priors
from detcli.types import Target
from tests.models.specs import (
    DENSE_DETECTORS,
    FPN_DETECTORS,
    SMALL_OF,
    detector,
    section,
    target,
    thin_vgg,
)

pytestmark = pytest.mark.slow

CANVAS = (64, 96)
NUM_CLASSES = 3
ONE = torch.ones(())
TINY = {"neck": {"out_channels": 64}, "head": {"num_convs": 0}}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small maps on shared cores: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def forward(name: str) -> tuple[nn.Module, Any]:
    """A small detector and its outputs for two images of noise, once per detector."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ssd.BACKBONES, "vgg16", thin_vgg)
        tiny = TINY if name in FPN_DETECTORS else {}
        model = detector(name, SMALL_OF[name], tiny, num_classes=NUM_CLASSES)
    images = torch.randn(2, 3, *CANVAS, generator=torch.Generator().manual_seed(3))
    return model, model(images)


def losses_of(name: str, targets: list[Target], **changes: Any) -> dict[str, Tensor]:
    """The terms of a detector with other losses, for the outputs of `forward`."""
    model, outputs = forward(name)
    model.criterion = criterion(name, **changes)
    losses: dict[str, Tensor] = model.loss(outputs, targets)
    return losses


def criterion(name: str, **changes: Any):
    keywords = section(name, changes)
    keys = ("assigner", "enlarge_small", "class_loss", "box_loss")
    return build_criterion(**{key: keywords[key] for key in keys})


def some_targets() -> list[Target]:
    return [
        target([[10, 12, 40, 60], [50, 20, 90, 60], [8, 8, 14, 14]], [0, 2, 2], CANVAS),
        target([[20, 3, 60, 60]], [1], (64, 64)),
    ]


def no_targets() -> list[Target]:
    return [target([], [], CANVAS), target([], [], (64, 64))]


BOX_CHOICES: list[dict[str, Any]] = [
    *({"box_loss": {"name": name}} for name in BOX_LOSSES),
    {"box_loss": {"name": "iou", "form": "linear", "small_box_factor": 1.5}},
]
SIGMOID_CHOICES: list[dict[str, Any]] = [
    *({"class_loss": {"name": name}} for name in CLASS_LOSSES),
    {"class_loss": {"name": "bce", "label_smoothing": 0.1}},
    *({"class_loss": {"name": "focal", "ohem": {"name": name}}} for name in MINING),
    *({"class_loss": {"name": "varifocal", "ohem": {"name": name}}} for name in MINING),
]


SOFTMAX_CHOICES: list[dict[str, Any]] = [
    *({"class_loss": {"name": name}} for name in SOFTMAX_LOSSES),
    *({"class_loss": {"name": name, "ohem": None}} for name in SOFTMAX_LOSSES),
    {"class_loss": {"name": "softmax", "label_smoothing": 0.1}},
    {"class_loss": {"name": "softmax", "ohem": {"name": "rank"}}},
]
CASES = [
    *((name, changes) for name in FPN_DETECTORS for changes in (*BOX_CHOICES, *SIGMOID_CHOICES)),
    *(("ssd", changes) for changes in (*BOX_CHOICES, *SOFTMAX_CHOICES)),
]


@pytest.mark.parametrize(("name", "changes"), CASES, ids=str)
def test_finite_and_reaching_every_parameter(name: str, changes: dict[str, Any]) -> None:
    model, outputs = forward(name)
    raw = [level for field in outputs[:-1] for level in field]
    for targets in (some_targets(), no_targets()):
        losses = losses_of(name, targets, **changes)
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
        grads = torch.autograd.grad(sum(losses.values()), raw, retain_graph=True)
        assert all(grad.isfinite().all() for grad in grads)
        if targets[0].boxes.numel():
            assert losses["box"] > 0
        else:
            assert losses["box"] == 0
    # `raw` is all that the losses see of the network: once is enough to know the rest
    grads = torch.autograd.grad(sum(losses.values()), list(model.parameters()), retain_graph=True)
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", DENSE_DETECTORS)
@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_small_boxes_weigh_more(name: str, box_loss: str) -> None:
    targets = [target([[8, 8, 40, 56]], [0], CANVAS), target([], [], CANVAS)]
    plain = losses_of(name, targets, box_loss={"name": box_loss})["box"]
    weighted = losses_of(name, targets, box_loss={"name": box_loss, "small_box_factor": 1.5})["box"]
    share = 32 / 96 * 48 / 64
    torch.testing.assert_close(weighted, plain * 1.5 * (2 - share))


def anchors(boxes: list[list[float]]) -> Priors:
    """One level of these boxes."""
    corners = torch.tensor(boxes)
    centers = (corners[:, :2] + corners[:, 2:]) / 2
    return Priors(corners, centers, torch.full((len(boxes),), 8.0), (len(boxes),))


def test_quality_is_the_iou_of_the_decoded_box() -> None:
    priors = anchors([[0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8]])
    labels = torch.tensor([[0, 3, IGNORED], [3, 3, 1]])
    boxes = torch.tensor([[0.0, 0, 8, 8], [16.0, 0, 24, 8]])
    matches = Matches(
        labels, torch.tensor([0, 5]), torch.arange(2), boxes, torch.ones(2), torch.tensor([1, 1])
    )
    positive = priors.take(matches.prior_index())
    coder = DeltaCoder()
    encoded = torch.zeros(2, 4, requires_grad=True) + torch.tensor([[0.0, 0, 0, 0], [0.5, 0, 0, 0]])
    rated = criterion("atss", class_loss={"name": "varifocal"})
    quality = box_quality(rated, coder, encoded, matches, positive)
    torch.testing.assert_close(quality, torch.tensor([[1.0, 0, 0], [0, 0, 1 / 3]]))
    assert not quality.requires_grad
    assert box_quality(criterion("atss"), coder, encoded, matches, positive) is None


def random_maps() -> tuple[tuple[Tensor, ...], Tensor]:
    """Logits (2, C, h, w) of two levels and labels (2, 60) of all priors."""
    generator = torch.Generator().manual_seed(5)
    maps = [torch.randn(2, NUM_CLASSES, *size, generator=generator) for size in [(6, 8), (3, 4)]]
    labels = torch.full((2, 60), NUM_CLASSES)
    labels[0, [3, 50]] = torch.tensor([1, 2])
    labels[:, 20:25] = IGNORED
    return tuple(maps), labels


def flat_logits(maps: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)


def test_hardest_negatives_are_chosen_among_all_levels() -> None:
    maps, labels = random_maps()
    mined = criterion("atss", class_loss={"name": "bce", "ohem": {"name": "hardest"}})
    plain = criterion("atss", class_loss={"name": "bce"})
    losses = torch.nn.functional.softplus(flat_logits(maps)).sum(dim=2)
    kept = labels.clone()
    for image, count in enumerate([6, 3]):  # 3 x 2 samples of objects, 3 x 1 without any
        background = (labels[image] == NUM_CLASSES).nonzero().squeeze(1)
        order = losses[image, background].argsort(descending=True)
        kept[image, background[order[count:]]] = IGNORED
    got = class_term(mined, maps, labels, NUM_CLASSES, None, ONE)
    torch.testing.assert_close(got, class_term(plain, maps, kept, NUM_CLASSES, None, ONE))


def test_rank_weights_reach_their_rows() -> None:
    maps, labels = random_maps()
    for level in maps:
        level.requires_grad_()
    mined = criterion("atss", class_loss={"name": "focal", "ohem": {"name": "rank", "power": 2.0}})
    each = mined.class_loss.of_each_row(flat_logits(maps).flatten(0, 1), labels.flatten())
    weights = mined.mining(each.view(2, 60), labels, NUM_CLASSES).flatten()
    want = mined.class_loss(flat_logits(maps).flatten(0, 1), labels.flatten(), None, weights)
    got = class_term(mined, maps, labels, NUM_CLASSES, None, ONE)
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got, maps), torch.autograd.grad(want, maps), strict=True):
        torch.testing.assert_close(a, b)


def test_weights_multiply() -> None:
    priors = anchors([[0, 0, 8, 8], [8, 0, 16, 8]])
    boxes = torch.tensor([[0.0, 0, 8, 6], [9.0, 0, 16, 8]])
    share = torch.tensor([0.5, 0.25])
    rows = torch.tensor([0, 1])
    matches = Matches(rows[None], rows, rows, boxes, share, torch.tensor([2]))
    factors = torch.tensor([0.3, 0.8])
    small = criterion("atss", box_loss={"name": "diou", "small_box_factor": 2.0})
    plain = criterion("atss", box_loss={"name": "diou"})
    encoded = torch.zeros(2, 4)
    got = box_term(small, DeltaCoder(), encoded, matches, priors, factors)
    want = box_term(plain, DeltaCoder(), encoded, matches, priors, factors * 2 * (2 - share))
    torch.testing.assert_close(got, want)
