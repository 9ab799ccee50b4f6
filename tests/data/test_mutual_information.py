"""Mutual information against closed forms, a plain loop and its laws."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detcli.data.mutual_information import BINS, mutual_information

REGIONS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=3, max_side=9))


def by_hand(first: np.ndarray, second: np.ndarray, bins: int) -> float:
    """Entropies of the histograms: H(a) + H(b) - H(a, b)."""
    a = [int(value) * bins // 256 for value in first.flat]
    b = [int(value) * bins // 256 for value in second.flat]

    def entropy(values: list) -> float:
        shares = [count / len(values) for count in Counter(values).values()]
        return -sum(share * math.log(share) for share in shares)

    return entropy(a) + entropy(b) - entropy(list(zip(a, b, strict=True)))


@settings(max_examples=60, deadline=None)
@given(region=REGIONS, seed=st.integers(0, 99), bins=st.sampled_from([1, 2, 16, 33, 256]))
def test_it_equals_the_sum_of_entropies(region: np.ndarray, seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, region.shape).astype(np.uint8)
    mixed = np.where(rng.random(region.shape) < 0.5, region, noise).astype(np.uint8)
    value = mutual_information(region, mixed, bins=bins)
    assert value == pytest.approx(by_hand(region, mixed, bins), abs=1e-9)
    assert value == pytest.approx(mutual_information(mixed, region, bins=bins), abs=1e-9)
    assert 0 <= value <= math.log(bins) + 1e-9


@settings(max_examples=30, deadline=None)
@given(region=REGIONS)
def test_a_region_tells_all_of_itself(region: np.ndarray) -> None:
    zeros = np.zeros_like(region)
    entropy = by_hand(region, region, BINS)
    assert mutual_information(region, region) == pytest.approx(entropy, abs=1e-9)
    # A one-to-one change of the values, here their negative, hides nothing.
    assert mutual_information(region, 255 - region) == pytest.approx(entropy, abs=1e-9)
    assert mutual_information(region, zeros) == pytest.approx(0, abs=1e-12)


def test_independent_values_tell_nothing_of_each_other() -> None:
    """Every pair of 16 x 16 values once."""
    first, second = np.meshgrid(np.arange(0, 256, 16), np.arange(0, 256, 16))
    assert mutual_information(first.astype(np.uint8), second.astype(np.uint8)) < 1e-12


def test_a_known_channel() -> None:
    """A fair bit that is turned over once in four times: log 2 minus the entropy of 1/4."""
    first = np.array([0, 0, 0, 0, 255, 255, 255, 255], np.uint8)
    second = np.array([0, 0, 0, 255, 255, 255, 255, 0], np.uint8)
    noise = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert mutual_information(first, second) == pytest.approx(math.log(2) - noise)


def test_chance_adds_what_the_docstring_of_the_bins_says() -> None:
    """Independent noise of 2700 values: (cells in use) / 2n, below any threshold that is used."""
    rng = np.random.default_rng(0)
    found = [
        mutual_information(*rng.integers(0, 256, (2, 30, 30, 3)).astype(np.uint8))
        for _ in range(20)
    ]
    assert np.mean(found) == pytest.approx((BINS - 1) ** 2 / (2 * 2700), rel=0.1)


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((0, 4), (0, 4))])
def test_regions_that_cannot_be_compared(shapes: tuple) -> None:
    with pytest.raises(ValueError, match="expected two regions of one shape"):
        mutual_information(*(np.zeros(shape, np.uint8) for shape in shapes))
