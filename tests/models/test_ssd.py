"""What only SSD has: VGG-16's maps, its neck, anchors, mining in each image, the cosine head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from detcli.errors import UsageError
from detcli.models.dense.matching import match_batch
from detcli.models.ssd import SSDAnchors, SSDNeck
from detcli.recipe.sections.models.ssd import SsdAnchors, SsdNeck
from tests.models.small_ssd import CANVAS, NUM_CLASSES, batch, small, some_targets, thin  # noqa: F401
from tests.models.specs import criterion_of, target

AM_SOFTMAX = {"class_loss": {"name": "am_softmax", "margin": 0.35, "scale": 30.0}}


SSD300_ANCHORS: dict[str, Any] = {
    "sizes": [21, 45, 99, 153, 207, 261, 315],
    "ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
    "strides": [8, 16, 32, 64, 100, 300],
}


SSD300_MAPS = [38, 19, 10, 5, 3, 1]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.usefixtures("thin")
def test_shapes_are_as_documented() -> None:
    outputs = small()(batch())
    assert outputs.canvas == CANVAS
    cells, anchors = [(8, 12), (4, 6), (2, 3), (1, 2)], [4, 6, 4, 4]
    for field, width in (("class_logits", NUM_CLASSES + 1), ("boxes", 4)):
        shapes = [tuple(level.shape) for level in getattr(outputs, field)]
        want = [(2, count * width, *size) for count, size in zip(anchors, cells, strict=True)]
        assert shapes == want, field


def test_the_fine_level_has_a_length_of_its_own() -> None:
    torch.manual_seed(0)
    neck = SSDNeck((8, 6), SsdNeck(out_channels=(4,), strides=(2,), paddings=(1,)))
    fine = torch.randn(2, 8, 4, 5).relu()
    fine[0, :, 1, 2] = 0  # nothing there: no direction
    fine.requires_grad_()
    levels = neck((fine, torch.randn(2, 6, 4, 5)))
    lengths = levels[0].norm(dim=1)
    assert lengths[0, 1, 2] == 0
    lengths = lengths[fine.detach().any(dim=1)]
    torch.testing.assert_close(lengths, torch.full_like(lengths, 20.0))
    levels[0].sum().backward()
    assert fine.grad.isfinite().all()


@pytest.mark.usefixtures("thin")
def test_images_without_room_for_the_levels() -> None:
    neck = {"out_channels": [64, 64], "strides": [2, 1], "paddings": [1, 0]}
    model = small({"neck": neck})
    with pytest.raises(
        UsageError, match=r"model\.neck: level 3 .* at least 3 cells .* got 2 x 3.*data\.resize"
    ):
        model(batch())


@pytest.mark.parametrize("clip", [False, True])
def test_anchors_are_torchvisions(clip: bool) -> None:
    peer = DefaultBoxGenerator(
        SSD300_ANCHORS["ratios"],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=SSD300_ANCHORS["strides"],
        clip=clip,
    )
    maps = [torch.zeros(1, 1, side, side) for side in SSD300_MAPS]
    images = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    (want,) = peer(images, maps)
    got = SSDAnchors(SsdAnchors(**SSD300_ANCHORS, clip=clip))(maps, (300, 300))
    torch.testing.assert_close(got.boxes, want, rtol=0, atol=1e-3)
    assert got.level_sizes == (5776, 2166, 600, 150, 36, 4)


@pytest.mark.usefixtures("thin")
def test_class_loss_of_the_hardest_three_per_positive_in_each_image() -> None:
    """Written out; the second image has no objects, and so no negatives."""
    model = small().eval()
    targets = [some_targets()[0], target([], [], CANVAS)]
    with torch.no_grad():
        outputs = model(batch())
        losses = model.loss(outputs, targets)
    priors = model.priors(outputs.boxes, outputs.canvas)
    labels = match_batch(
        criterion_of(model).assigner, priors, targets, num_classes=NUM_CLASSES, padding="seen"
    ).labels
    logits = torch.cat(
        [
            level.unflatten(1, (-1, NUM_CLASSES + 1)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            for level in outputs.class_logits
        ],
        dim=1,
    )
    assert (labels[1] == NUM_CLASSES).all()
    each = F.cross_entropy(logits[0], labels[0], reduction="none")
    objects = labels[0] < NUM_CLASSES
    negatives = each[~objects].sort(descending=True).values[: 3 * int(objects.sum())]
    want = (each[objects].sum() + negatives.sum()) / (objects.sum() + 1)
    torch.testing.assert_close(losses["class"], want)


@pytest.mark.usefixtures("thin")
def test_scores_are_the_softmax_without_background() -> None:
    model = small({"score_threshold": 0.0, "topk_per_level": 10_000}).eval()
    with torch.no_grad():
        outputs = model(batch())
        found = model.decode(outputs, [CANVAS, CANVAS])
    priors = sum(level.shape[1] // 4 * level[0, 0].numel() for level in outputs.boxes)
    for candidates in found:
        assert len(candidates.scores) == priors * NUM_CLASSES
    first = outputs.class_logits[3][0, : NUM_CLASSES + 1, 0, 0].softmax(dim=0)
    last_level = found[0].scores[-8 * NUM_CLASSES :]
    for score in first[:-1]:
        assert (last_level - score).abs().min() < 1e-6


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("empty", [False, True])
def test_am_softmax_reaches_every_parameter(empty: bool) -> None:
    model = small(AM_SOFTMAX)
    targets = [target([], [], CANVAS)] * 2 if empty else some_targets()
    outputs = model(batch())
    assert max(level.abs().max() for level in outputs.class_logits) <= 30
    assert not any(name.endswith("bias") for name, _ in model.head.class_logits.named_parameters())
    losses = model.loss(outputs, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # the classifiers of the fine levels have candidates in any image
        assert empty or "class_logits.0" not in name or parameter.grad.abs().sum() > 0


@pytest.mark.usefixtures("thin")
def test_the_margin_makes_objects_harder_only() -> None:
    model = small({"class_loss": {**AM_SOFTMAX["class_loss"], "ohem": None}}).eval()
    with torch.no_grad():
        outputs = model(batch())
        with_margin = model.loss(outputs, some_targets())["class"]
        plain = small(
            {"class_loss": {**AM_SOFTMAX["class_loss"], "margin": 0.0, "ohem": None}}
        ).loss(outputs, some_targets())["class"]
        background = [target([], [], CANVAS)] * 2
        assert model.loss(outputs, background)["class"] > 0
        torch.testing.assert_close(
            model.loss(outputs, background)["class"],
            small({"class_loss": {**AM_SOFTMAX["class_loss"], "margin": 0.0, "ohem": None}}).loss(
                outputs, background
            )["class"],
        )
    assert with_margin > plain


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize(
    "class_loss",
    [AM_SOFTMAX["class_loss"], {"name": "softmax", "label_smoothing": 0.1}],
    ids=["am_softmax", "smoothing"],
)
def test_it_learns(class_loss: dict[str, Any]) -> None:
    model = small({"class_loss": class_loss})
    images = batch() * 0.1
    images[0, 0, 16:48, 20:60] += 2
    images[1, 2, 20:60, 40:80] += 2
    targets = [target([[20, 16, 60, 48]], [0], CANVAS), target([[40, 20, 80, 60]], [1], CANVAS)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.0)
    totals = []
    for _ in range(18):
        loss = sum(model.loss(model(images), targets).values())
        totals.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert totals[-1] < 0.6 * totals[0]
