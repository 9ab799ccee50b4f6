"""An augmentation from outside: a transform and a row of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from detcli.data.records import Records
from detcli.data.transforms import Sample, build_transforms, check_augmentations
from detcli.data.transforms.build import AUGMENTATIONS, Augmentation
from detcli.errors import UsageError
from tests.data.transforms.augmenting import painted

RESIZE: dict[str, Any] = {"short": [40], "long": 80, "pick": "choice", "eval_short": None}


class Invert:
    """The negative of an image."""

    names = ("invert",)

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def __call__(self, sample: Sample) -> Sample:
        return sample.changed("invert", image=255 - sample.image)


def too_rare(records: Records, keywords: Mapping[str, Any]) -> str | None:
    return None if keywords["prob"] > 0.1 else "it is too rare"


@pytest.mark.parametrize("late", [False, True])
def test_a_row_is_all_that_a_transform_needs(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    row = Augmentation(Invert, cannot_act=too_rare, late=late)
    monkeypatch.setitem(AUGMENTATIONS, "invert", row)
    augment = {"flip": None, "invert": {"prob": 1.0}}
    pipeline = build_transforms(resize=RESIZE, augment=augment, train=True)
    assert pipeline.names == ("invert",)
    assert isinstance(pipeline.steps[late], Invert)
    out = pipeline(painted((40, 60), [], []))
    assert out.fired == ("invert",)
    assert torch.equal(out.image, 255 - painted((40, 60), [], []).image)


def test_it_says_itself_when_it_cannot_act(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AUGMENTATIONS, "invert", Augmentation(Invert, too_rare))
    records: Any = None
    check_augmentations(records, {"invert": {"prob": 0.5}, "flip": {}})
    with pytest.raises(UsageError, match=r"^data\.augment\.invert cannot act: it is too rare; set"):
        check_augmentations(records, {"invert": {"prob": 0.0}})
