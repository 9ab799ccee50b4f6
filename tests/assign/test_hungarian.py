"""Matching of queries and objects, against all ways to pair them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detcli.assign.hungarian import Wanted, build_hungarian, focal_cost, softmax_cost, wanted_of
from detcli.errors import DivergedError
from detcli.recipe.sections.models.detr import HungarianAssigner as HungarianSection
from tests.models.specs import target

SIZE = (60, 80)
COSTS = HungarianSection(class_cost=1.0, l1_cost=5.0, giou_cost=2.0)


def objects(count: int, seed: int) -> Wanted:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 30
    sides = torch.rand(count, 2, generator=generator) * 30 + 2
    boxes = torch.cat([corners, corners + sides], dim=1)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return wanted_of(target(boxes.tolist(), labels.tolist(), SIZE), SIZE)


def predictions(layers: int, images: int, queries: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, images, queries, 4, generator=generator)
    return logits, torch.rand(layers, images, queries, 4, generator=generator) * 0.6 + 0.05


@settings(deadline=None, max_examples=30)
@given(
    queries=st.integers(1, 5),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["softmax", "focal"]),
)
def test_pairs_are_the_cheapest(queries: int, counts: list[int], seed: int, kind: str) -> None:
    assigner = build_hungarian(COSTS, class_costs=kind)
    wanted = [objects(count, seed + image) for image, count in enumerate(counts)]
    logits, shares = predictions(2, len(counts), queries, seed)
    pairs = assigner(logits, shares, wanted)
    first = 0
    for image, (count, one) in enumerate(zip(counts, wanted, strict=True)):
        costs = assigner.terms(logits[:, image], shares[:, image], one).sum(dim=0)
        chosen = pairs.image == image
        assert chosen.sum() == min(queries, count)
        for layer in range(2):
            query, found = pairs.query[layer, chosen], pairs.object[layer, chosen] - first
            assert len(set(query.tolist())) == len(query)
            assert len(set(found.tolist())) == len(found)
            best = min(
                sum(costs[layer, q, n].item() for q, n in zip(some, others, strict=True))
                for some in itertools.permutations(range(queries), min(queries, count))
                for others in itertools.combinations(range(count), min(queries, count))
            )
            assert costs[layer, query, found].sum().item() == pytest.approx(best, abs=1e-4)
        first += count


def test_terms_by_hand() -> None:
    """A box that is the object, and one of the same size that only touches it at a side."""
    one = wanted_of(target([[8, 6, 24, 18]], [1], SIZE), SIZE)
    same = one.shares
    beside = same + torch.tensor([0.2, 0, 0, 0])
    shares = torch.stack([same, beside], dim=1)  # (1, 2, 4)
    logits = torch.log(torch.tensor([[[0.2, 0.7, 0.1], [0.5, 0.25, 0.25]]]))
    assigner = build_hungarian(COSTS, class_costs="softmax")
    classes, distance, giou = assigner.terms(logits, shares, one)[:, 0, :, 0]
    assert classes.tolist() == pytest.approx([-0.7, -0.25])
    assert distance.tolist() == pytest.approx([0.0, 5 * 0.2], abs=1e-6)
    assert giou.tolist() == pytest.approx([-2.0, 0.0], abs=1e-6)  # the hull is both boxes


def test_class_costs_by_hand() -> None:
    logits = torch.tensor([[[0.0, 2.0]]])
    p = 1 / (1 + math.exp(-2))
    want = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
    assert focal_cost(logits, torch.tensor([1])).item() == pytest.approx(want, rel=1e-5)
    assert softmax_cost(logits, torch.tensor([1])).item() == pytest.approx(-p, rel=1e-5)


@pytest.mark.parametrize("counts", [[0], [0, 0], [0, 2]])
def test_images_without_objects(counts: list[int]) -> None:
    wanted = [objects(count, image) for image, count in enumerate(counts)]
    logits, shares = predictions(3, len(counts), 4, 0)
    pairs = build_hungarian(COSTS, class_costs="softmax")(logits, shares, wanted)
    assert pairs.query.shape == pairs.object.shape == (3, sum(counts))


@pytest.mark.parametrize(("where", "named"), [("logits", "class"), ("shares", "l1, giou")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_costs_that_are_not_finite_are_named(where: str, named: str, value: float) -> None:
    wanted = [objects(2, 0), objects(1, 1)]
    logits, shares = predictions(2, 2, 3, 0)
    {"logits": logits, "shares": shares}[where][1, 1, 2] = value
    with pytest.raises(DivergedError, match=rf"\({named}\).*image 1 .*layer 2"):
        build_hungarian(COSTS, class_costs="softmax")(logits, shares, wanted)
