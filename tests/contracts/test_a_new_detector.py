"""A detector that these tests have never heard of is made small by its section alone."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from torch import nn

from detcli.models import DETECTORS
from detcli.recipe.sections.models.atss import Atss
from detcli.recipe.sections.models.deformable_detr import DeformableDetr
from detcli.recipe.sections.models.faster_rcnn import FasterRcnn
from tests.models.specs import SECTIONS, SMALL_OF, detector, small_of

NAME: Any = Literal["made_up"]


class Dense(Atss):
    name: NAME = "made_up"
    strength: float = 1.0


class TwoStage(FasterRcnn):
    name: NAME = "made_up"


class SetPredictor(DeformableDetr):
    name: NAME = "made_up"


def build(*_: Any, num_classes: int, **keywords: Any) -> nn.Module:
    return nn.Linear(1, num_classes)


@pytest.mark.parametrize(
    ("section", "like"),
    [(Dense, "atss"), (TwoStage, "faster_rcnn"), (SetPredictor, "deformable_detr")],
)
def test_a_new_section_is_picked_up(section: Any, like: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SECTIONS, "made_up", section)
    monkeypatch.setitem(DETECTORS, "made_up", build)
    small = small_of("made_up")
    assert small == SMALL_OF[like] != {}
    assert detector("made_up", small, num_classes=3).out_features == 3
