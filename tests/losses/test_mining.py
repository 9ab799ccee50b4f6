"""Hard example mining against plain loops, and its properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.losses import build_mining
from detcli.recipe.sections.losses import Ohem
from tests.sections import MINING

CLASSES = 3


def mining(
    name: str,
    *,
    negatives_per_object: float = 3.0,
    background_images: bool = True,
    power: float = 1.0,
):
    return build_mining(
        Ohem.model_construct(
            name=name,
            negatives_per_object=negatives_per_object,
            background_images=background_images,
            power=power,
        )
    )


images = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0]), st.integers(-2, CLASSES)),
    min_size=1,
    max_size=14,
)


def plain_order(image, among) -> list[int]:
    """Places of the samples that may count, hardest first; equal losses in order."""
    chosen = [place for place, (_, label) in enumerate(image) if among(label)]
    return sorted(chosen, key=lambda place: (-image[place][0], place))


def columns(image) -> tuple[torch.Tensor, torch.Tensor]:
    losses, labels = zip(*image, strict=True)
    return torch.tensor([losses]), torch.tensor([labels])


@settings(max_examples=100, deadline=None)
@given(images, st.sampled_from([0.5, 1.0, 3.0]), st.booleans())
def test_hardest_equals_a_plain_loop(image, ratio: float, background_images: bool) -> None:
    objects = sum(0 <= label < CLASSES for _, label in image)
    negatives = plain_order(image, lambda label: label == CLASSES)
    count = ratio * max(int(background_images), objects)
    kept = [place for rank, place in enumerate(negatives) if rank < count]
    want = [float(0 <= label < CLASSES or place in kept) for place, (_, label) in enumerate(image)]
    mined = mining("hardest", negatives_per_object=ratio, background_images=background_images)
    got = mined(*columns(image), CLASSES)
    assert got.tolist() == [want]


@settings(max_examples=100, deadline=None)
@given(images, st.sampled_from([0.5, 1.0, 3.0]))
def test_rank_equals_a_plain_loop(image, power: float) -> None:
    order = plain_order(image, lambda label: label >= 0)
    want = [0.0] * len(image)
    for rank, place in enumerate(order):
        want[place] = (1 + power) * (1 - (rank + 0.5) / len(order)) ** power
    got = mining("rank", power=power)(*columns(image), CLASSES)
    assert got[0].tolist() == pytest.approx(want, rel=1e-5)
    if power == 1 and order:
        assert got.sum().item() == pytest.approx(len(order))


def test_the_mean_rank_weight_is_one() -> None:
    losses = torch.rand(2, 4000, generator=torch.Generator().manual_seed(0))
    for power in (0.5, 2.0, 4.0):
        weights = mining("rank", power=power)(losses, torch.full((2, 4000), CLASSES), CLASSES)
        assert weights.mean().item() == pytest.approx(1, rel=1e-3)
        assert weights.amax().item() == pytest.approx(1 + power, rel=1e-2)


@pytest.mark.parametrize("name", MINING)
def test_images_do_not_look_at_each_other(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    losses = torch.rand(3, 50, generator=generator)
    labels = torch.randint(-2, CLASSES + 1, (3, 50), generator=generator)
    together = mining(name)(losses, labels, CLASSES)
    alone = [mining(name)(losses[i : i + 1], labels[i : i + 1], CLASSES) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))
    assert (together[labels < 0] == 0).all()
    assert mining(name)(losses[:, :0], labels[:, :0], CLASSES).shape == (3, 0)
    with pytest.raises(ValueError, match="labels: expected shape"):
        mining(name)(losses, labels[:2], CLASSES)
