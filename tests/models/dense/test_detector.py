"""What ATSS, FCOS, NAS-FCOS and RetinaNet share, by exchanging its parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detcli.models.dense.detector import DenseDetector
from detcli.models.dense.matching import Matches
from tests.models.specs import BRANCHED_DETECTORS, SMALL_OF, detector, target

SIZE = (64, 96)
OBJECTS = [target([[8, 8, 56, 56]], [1], SIZE), target([], [], SIZE)]


def one(name: str) -> DenseDetector:
    model = detector(name, SMALL_OF[name], num_classes=3)
    assert isinstance(model, DenseDetector)
    return model


def images() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", BRANCHED_DETECTORS)
def test_terms_are_divided_by_the_normaliser(name: str) -> None:
    """All but a box term that the centre-ness weights."""
    model = one(name)
    outputs = model(images())
    before = model.loss(outputs, OBJECTS)

    def twice(matches: Matches) -> Tensor:
        return 2 * own(matches).clamp(min=1)

    own = model.learning.normaliser
    model.learning = replace(model.learning, normaliser=twice)
    after = model.loss(outputs, OBJECTS)
    weighted = model.head.estimates.centerness is not None
    assert ("centerness" in before) == weighted
    for term, value in before.items():
        share = 1 if term == "box" and weighted else 2
        torch.testing.assert_close(share * after[term], value)


def test_a_head_without_centerness_has_no_such_maps() -> None:
    assert one("retinanet")(images()).centerness == ()
    assert len(one("atss")(images()).centerness) == 5
