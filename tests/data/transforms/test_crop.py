"""Crops: draw a rectangle, crop, and measure where it went."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from detcli.data.transforms import Sample
from detcli.data.transforms.crop import IoUCrop, SafeCrop, crop
from tests.data.transforms.augmenting import seeded
from tests.data.transforms.rectangles import MANY, marked_samples, measured_box
from tests.data.transforms.scenes import FEW, SEEDS, scenes


@MANY
@given(sample=marked_samples(), seed=st.integers(0, 1000))
def test_boxes_follow_an_iou_crop(sample: Sample, seed: int) -> None:
    cropped = seeded(seed, IoUCrop(1.0), sample)
    assert len(cropped.boxes) == 1  # the only object is never cropped away
    assert torch.equal(cropped.boxes[0], measured_box(cropped))
    assert (cropped.size == sample.size) or cropped.fired == ("iou_crop",)


def test_a_crop_keeps_centres_and_any_part_of_ignored_regions() -> None:
    boxes = torch.tensor(
        [[0, 0, 20, 20], [18, 18, 40, 40], [0, 0, 12, 12], [0, 0, 12, 12], [0, 0, 9, 9]]
    ).float()
    ignore = torch.tensor([False, False, False, True, True])
    image = torch.zeros(3, 50, 50, dtype=torch.uint8)
    cut = crop(Sample(image, boxes, torch.arange(5), ignore), top=9, left=9, height=30, width=30)
    assert cut.labels.tolist() == [0, 1, 3]
    assert cut.boxes.tolist() == [[0, 0, 11, 11], [9, 9, 30, 30], [0, 0, 3, 3]]
    assert cut.ignore.tolist() == [False, False, True]


@FEW
@given(sample=scenes(), seed=SEEDS, keep=st.sampled_from(["all", "one"]))
def test_a_crop_holds_objects_whole(sample: Sample, seed: int, keep: str) -> None:
    out = seeded(seed, SafeCrop(1.0, 0.2, keep), sample)
    sides = {
        label: (box[2:] - box[:2]).tolist()
        for box, label in zip(sample.boxes, sample.labels.tolist(), strict=True)
    }
    intact = [
        (box[2:] - box[:2]).tolist() == sides[label]
        for box, label in zip(out.boxes, out.labels.tolist(), strict=True)
        if not out.ignore[out.labels == label].any()
    ]
    objects = int((~sample.ignore).sum())
    if keep == "all":
        assert sum(intact) == objects
    else:
        assert sum(intact) >= min(objects, 1)
