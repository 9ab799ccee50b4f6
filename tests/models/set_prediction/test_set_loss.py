"""The loss of set predictors: weights, ignored regions, normalisers, names of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detcli.models.set_prediction.set_loss import SetOutputs, build_set_criterion, by_layer
from detcli.types import Target
from tests.models.specs import section, target

SIZE = (60, 80)
CLASSES = 3


def criterion(name: str = "detr", **box_loss: Any) -> Any:
    options = section(name)
    changed = options.box_loss.model_copy(update=box_loss)
    return build_set_criterion(options.model_copy(update={"box_loss": changed}))


def predictions(extra: int, images: int = 2, layers: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(layers, images, 5, CLASSES + extra, generator=generator)
    shares = torch.rand(layers, images, 5, 4, generator=generator) * 0.5 + 0.1
    return logits, shares


def last(logits: Tensor, shares: Tensor) -> SetOutputs:
    """The outputs of a detector whose only layer is the last of these."""
    return SetOutputs((logits[-1],), (shares[-1],), (), (SIZE,) * logits.shape[1])


def targets(ignore: list[list[float]] | None = None) -> list[Target]:
    return [target([[8, 6, 24, 18], [30, 20, 70, 50]], [1, 2], SIZE, ignore), target([], [], SIZE)]


def test_soft_max_is_a_weighted_mean() -> None:
    judge = criterion()
    logits, shares = predictions(1)
    terms = judge(logits, shares, targets(), [SIZE] * 2)
    queries = judge.matched_queries(last(logits, shares), targets())
    labels = torch.full((2, 5), CLASSES)
    labels[0, queries[0]] = torch.tensor([1, 2])
    weight = torch.tensor([1.0] * CLASSES + [0.1])
    want = F.cross_entropy(logits[0].flatten(0, 1), labels.flatten(), weight)
    torch.testing.assert_close(terms["class"][0], want)
    assert queries[1].shape == (0,)


def test_focal_is_a_sum_by_objects() -> None:
    judge = criterion("deformable_detr")
    logits, shares = predictions(0)
    terms = judge(logits, shares, targets(), [SIZE] * 2)
    (queries, _) = judge.matched_queries(last(logits, shares), targets())
    wanted = torch.zeros(2, 5, CLASSES)
    wanted[0, queries, torch.tensor([1, 2])] = 1.0
    p = logits[0].sigmoid()
    p_t = p * wanted + (1 - p) * (1 - wanted)
    alpha = 0.25 * wanted + 0.75 * (1 - wanted)
    want = 2.0 * (alpha * (1 - p_t) ** 2 * -p_t.log()).sum() / 2  # weight; two objects
    torch.testing.assert_close(terms["class"][0], want)


@pytest.mark.parametrize("name", ["detr", "deformable_detr"])
def test_ignored_regions_count_neither_way(name: str) -> None:
    """A query without an object whose centre lies there may say what it likes."""
    judge = criterion(name)
    logits, shares = predictions(1 if name == "detr" else 0)
    shares[:, 0, 4] = torch.tensor([0.9, 0.9, 0.01, 0.01])  # too far off to be matched
    region = [[60.0, 45.0, 80.0, 60.0]]
    kept = judge(logits, shares, targets(region), [SIZE] * 2)["class"]
    loud = logits.clone()
    loud[:, 0, 4, 0] = 20.0
    torch.testing.assert_close(judge(loud, shares, targets(region), [SIZE] * 2)["class"], kept)
    assert judge(loud, shares, targets(), [SIZE] * 2)["class"] > kept + 0.1


def test_small_boxes_weigh_more() -> None:
    plain, weighted = criterion(), criterion(small_box_factor=1.5)
    logits, shares = predictions(1, images=1)
    one = [target([[8, 6, 24, 18]], [1], SIZE)]
    factor = 1.5 * (2 - (16 / 80) * (12 / 60))
    before, after = (judge(logits, shares, one, [SIZE])["box"] for judge in (plain, weighted))
    torch.testing.assert_close(after, before * factor)


def test_more_objects_than_queries() -> None:
    boxes = [[5.0 * i, 5.0, 5.0 * i + 4, 20.0] for i in range(8)]
    crowd = [target(boxes, [0] * 8, SIZE)]
    logits, shares = predictions(1, images=1)
    judge = criterion()
    terms = judge(logits, shares, crowd, [SIZE])
    assert all(value.isfinite().all() for value in terms.values())
    (queries,) = judge.matched_queries(last(logits, shares), crowd)
    assert sorted(queries.tolist()) == [-1, -1, -1, 0, 1, 2, 3, 4]


def test_names_of_layers() -> None:
    terms = {"class": torch.tensor([1.0, 2.0, 3.0]), "box": torch.tensor([4.0, 5.0, 6.0])}
    named = by_layer(terms)
    assert {name: value.item() for name, value in named.items()} == {
        "class": 3,
        "box": 6,
        "class_2": 2,
        "box_2": 5,
        "class_1": 1,
        "box_1": 4,
    }
