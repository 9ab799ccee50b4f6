"""The whole pipeline, and an augmentation from outside: a transform and a row of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detcli.data.records import Records
from detcli.data.transforms import Sample, build_transforms, check_augmentations
from detcli.data.transforms.build import AUGMENTATIONS, Augmentation
from detcli.errors import UsageError
from tests.data.transforms.augmenting import painted, seeded
from tests.data.transforms.rectangles import MANY, marked_samples

SIZES: dict[str, Any] = {"short": [40, 60], "long": 100, "pick": "choice", "eval_short": None}


ALL: dict[str, Any] = {
    "flip": {"horizontal": 0.5, "vertical": 0.5},
    "photometric": {"prob": 0.5},
    "zoom_out": {"prob": 0.5, "max_scale": 3.0},
    "iou_crop": {"prob": 0.8},
}


@MANY
@given(sample=marked_samples(), seed=st.integers(0, 10_000))
def test_the_whole_pipeline_keeps_boxes_valid(sample: Sample, seed: int) -> None:
    out = seeded(seed, build_transforms(resize=SIZES, augment=ALL, train=True), sample)
    height, width = out.size
    assert out.image.dtype == torch.uint8
    assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
    assert (out.boxes >= -1e-3).all()
    assert (out.boxes <= torch.tensor([width, height] * 2) + 1e-3).all()


def test_names_are_what_may_fire() -> None:
    pipeline = build_transforms(resize=SIZES, augment=ALL, train=True)
    assert pipeline.names == (
        "photometric",
        "zoom_out",
        "iou_crop",
        "flip_horizontal",
        "flip_vertical",
    )
    image = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
    sample = Sample(
        image, torch.tensor([[5.0, 5, 30, 40]]), torch.tensor([0]), torch.tensor([False])
    )
    fired = {name for seed in range(60) for name in seeded(seed, pipeline, sample).fired}
    assert fired == set(pipeline.names)


def test_nothing_that_is_off_ever_fires() -> None:
    off = dict.fromkeys(ALL) | {"flip": {"horizontal": 0.0, "vertical": 0.0}}
    pipeline = build_transforms(resize=SIZES, augment=off, train=True)
    image = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert pipeline.names == ()
    assert all(seeded(seed, pipeline, sample).fired == () for seed in range(30))


def test_evaluation_only_resizes() -> None:
    image = torch.randint(0, 255, (3, 50, 60), dtype=torch.uint8)
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    for eval_short, expected in ((None, 60), (44, 44)):
        resize = SIZES | {"eval_short": eval_short}
        out = build_transforms(resize=resize, augment=ALL, train=False)(sample)
        assert (out.size[0], out.fired) == (expected, ())


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
