"""Pooled regions."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool

from detcli.models.two_stage.regions import RegionHead
from detcli.models.two_stage.roi_pool import RegionPooler
from detcli.recipe.sections.models import two_stage as sections
from detcli.recipe.sections.models.two_stage import Pooler
from tests.models.two_stage.small import random_boxes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_pooler_takes_the_level_that_fits(aligned: bool, ratio: int) -> None:
    pooler = RegionPooler(
        (4, 8, 16),
        Pooler(
            name="roi_align", side=3, scale=4.0, sampling_ratio=ratio, aligned=aligned, context=None
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
        Pooler(name="roi_align", side=7, scale=14.0, sampling_ratio=2, aligned=False, context=None),
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
    options = {"name": "roi_align", "side": 3, "scale": 4.0, "sampling_ratio": 2, "aligned": True}
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
        Pooler(name="roi_align", side=3, scale=4.0, sampling_ratio=0, aligned=True, context=None),
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
