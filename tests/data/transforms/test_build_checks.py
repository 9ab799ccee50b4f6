"""What augmentations do together, and when they must not act."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from detcli.data.dataset import DetectionDataset
from detcli.data.formats.read import read_records
from detcli.data.loader import build_loader
from detcli.data.records import Records
from detcli.data.transforms import build_transforms, check_augmentations
from detcli.data.transforms.build import AUGMENTATIONS
from detcli.errors import UsageError
from detcli.recipe.sections.augment import Augment
from tests.data.build import coco_content, loading, write_coco

RESIZE: dict[str, Any] = {"short": [40], "long": 80, "pick": "choice", "eval_short": None}


EVERYTHING: dict[str, Any] = {
    "oversample": {"ratio": 3, "max_side_px": 12.5},
    "poisson": {"prob": 0.5, "objects": 1},
    "copy_paste": {"prob": 0.7, "max_side_px": 20.0, "copies": 2},
    "mosaic": {"prob": 0.5, "scale": (0.5, 1.0)},
    "mixup": {"prob": 0.5, "alpha": 1.5},
    "auto_augment": {"policy": "v0"},
    "photometric": {"prob": 0.5},
    "colour_jitter": {
        "prob": 0.5,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
    },
    "blur": {"prob": 0.5, "sigma": (0.3, 2.0)},
    "zoom_out": {"prob": 0.3, "max_scale": 2.0},
    "iou_crop": {"prob": 0.5},
    "crop": {"prob": 0.5, "min_side": 0.4, "keep": "one"},
    "center_crop": {"prob": 0.5, "side_px": None, "scales": (0.8, 1.2), "border_px": 8},
    "flip": {"horizontal": 0.5, "vertical": 0.5},
    "cutout": {"prob": 0.5, "num": 2, "side": 0.25},
}


CHIPS = {"sides_px": (24, 32), "valid": (0.05, 0.9), "negative": 0.3}


def dataset_of(records: Records, augment: dict[str, Any], seed: int = 3) -> DetectionDataset:
    transforms = build_transforms(resize=RESIZE, augment=augment, train=True)
    return DetectionDataset(records, transforms, seed)


def test_each_key_of_the_recipe_is_an_augmentation_and_those_after_the_resize_are_last() -> None:
    assert set(Augment.model_fields) == set(AUGMENTATIONS)
    late = [AUGMENTATIONS[name].late for name in Augment.model_fields]
    assert late == sorted(late)


def test_augmentations_act_in_the_order_in_which_they_are_given() -> None:
    given = {name: EVERYTHING[name] for name in ("mixup", "flip", "mosaic", "blur", "cutout")}
    steps = build_transforms(resize=RESIZE, augment=given, train=True).steps
    names = [type(step).__name__ for step in steps]
    assert names == ["Mixup", "Mosaic", "Blur", "Resize", "Flip", "Cutout"]


@pytest.mark.parametrize("augment", [EVERYTHING, {"chips": CHIPS}], ids=["everything", "chips"])
def test_an_item_depends_on_seed_epoch_and_index_alone(
    records: Records, augment: dict[str, Any]
) -> None:
    """Also where other images are mixed in, and whatever was made before."""
    items = [(epoch, index) for epoch in (0, 1) for index in (0, 3, 6, 8)]
    if "oversample" not in augment:
        items = [item for item in items if item[1] < 7]
    first, second = dataset_of(records, augment), dataset_of(records, augment)
    forward = {item: first[item] for item in items}
    backward = {item: second[item] for item in reversed(items)}
    for item in items:
        a, b = forward[item], backward[item]
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.boxes, b.boxes)
        assert a.fired == b.fired
    other = dataset_of(records, augment, seed=4)
    assert any(
        other[item].image.shape != forward[item].image.shape
        or not torch.equal(other[item].image, forward[item].image)
        for item in items
    )


def test_everything_fires_and_every_box_stays_valid(records: Records) -> None:
    dataset = dataset_of(records, EVERYTHING)
    fired: Counter[str] = Counter()
    for epoch in range(4):
        for index in range(7 + len(dataset.extra)):
            out = dataset[epoch, index]
            fired.update(out.fired)
            height, width = out.size
            assert out.image.dtype == torch.uint8
            assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
            assert (out.boxes >= -1e-3).all()
            assert (out.boxes <= torch.tensor([width, height] * 2) + 1e-3).all()
            assert len(out.boxes) == len(out.labels) == len(out.ignore)
    assert set(fired) == set(dataset.augmentations)


def test_nothing_that_is_off_or_of_probability_zero_fires(records: Records) -> None:
    zero = {
        name: value | {"prob": 0.0} for name, value in EVERYTHING.items() if "prob" in value
    } | {"flip": {"horizontal": 0.0, "vertical": 0.0}}
    for augment in (zero, dict.fromkeys(EVERYTHING)):
        dataset = dataset_of(records, augment)
        plain = dataset_of(records, {})
        for index in range(7):
            assert dataset[0, index].fired == ()
            assert torch.equal(dataset[0, index].image, plain[0, index].image)


def loader_of(dataset: DetectionDataset, **options: Any) -> Any:
    return build_loader(dataset, loading(**options), batch_per_rank=2, shuffle=True, seed=5)


def test_oversampled_images_come_several_times_and_each_time_anew(records: Records) -> None:
    augment = {"oversample": {"ratio": 3, "max_side_px": 12.5}, "photometric": {"prob": 1.0}}
    dataset = dataset_of(records, augment)
    assert dataset.extra.tolist() == [0, 1, 0, 1]
    assert len(dataset) == 7
    batches = list(loader_of(dataset).start(0))
    seen = Counter(index for batch in batches for index in batch.indices)
    assert seen[0] >= 3
    assert seen[1] >= 3
    assert sum(seen.values()) == 12  # 11, filled up to full batches
    assert sum(batch.fired.get("oversample", 0) for batch in batches) >= 4
    shown = [dataset[0, index].image for index in (0, 7, 9)]
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[1], shown[2])
    later = list(loader_of(dataset).start(0, skip=3))
    for a, b in zip(later, batches[3:], strict=True):
        assert a.indices == b.indices
        assert torch.equal(a.images, b.images)


def test_the_stream_with_mixing_does_not_depend_on_workers(records: Records) -> None:
    augment = {name: EVERYTHING[name] for name in ("oversample", "copy_paste", "mosaic", "mixup")}
    streams = [
        list(loader_of(dataset_of(records, augment), workers=workers).start(1))
        for workers in (0, 2)
    ]
    for a, b in zip(*streams, strict=True):
        assert a.indices == b.indices
        assert torch.equal(a.images, b.images)
        assert a.fired == b.fired


def only(records: Records, keep: list[int]) -> Records:
    return records.take(keep)


@pytest.mark.parametrize(
    ("images", "augment", "reason"),
    [
        ([0], {"mosaic": EVERYTHING["mosaic"]}, "mosaic cannot act: it mixes different images"),
        ([0], {"mixup": EVERYTHING["mixup"]}, "mixup cannot act: .* has 1"),
        (
            [2, 3, 6],
            {"copy_paste": {"prob": 1.0, "max_side_px": 12.0, "copies": 1}},
            r"copy_paste cannot act: no training object is smaller than 12 pixels \(the smallest "
            r"has 14; max_side_px\)",
        ),
        ([6], {"copy_paste": {"prob": 1.0, "max_side_px": 12.0, "copies": 1}}, "there are none"),
        (
            [2, 3],
            {"oversample": {"ratio": 2, "max_side_px": 5.0}},
            "oversample cannot act: no training object is smaller than 5 pixels",
        ),
        (
            [0, 1],
            {"oversample": {"ratio": 2, "max_side_px": 12.5}},
            "every training image has small objects",
        ),
        (
            [0, 1],
            {"chips": {"sides_px": (400,), "valid": (0.1, 0.5), "negative": 0.0}},
            r"between 0\.1 and 0\.5 of a chip's side \(400 pixels\); change sides_px or valid",
        ),
        ([6], {"iou_crop": {"prob": 0.5}}, "no training image has an object"),
    ],
)
def test_what_cannot_act_is_refused_with_the_reason(
    images: list[int], augment: dict[str, Any], reason: str, records: Records
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        check_augmentations(only(records, images), augment)
    assert len(str(caught.value).splitlines()) == 1


def test_several_refusals_are_several_lines(records: Records) -> None:
    with pytest.raises(UsageError) as caught:
        check_augmentations(only(records, [6]), EVERYTHING)
    assert len(str(caught.value).splitlines()) == 6


def test_what_can_act_is_accepted(records: Records) -> None:
    check_augmentations(records, EVERYTHING | {"chips": CHIPS})
    check_augmentations(only(records, [6]), dict.fromkeys(EVERYTHING))


def test_crowded_small_objects_have_nothing_to_copy(tmp_path: Path) -> None:
    content = coco_content(2)
    box = content["annotations"][0]
    content["annotations"] = [box, box | {"bbox": [6, 4, 20, 10]}]
    write_coco(tmp_path, content, num_images=2)
    split = {"annotations": "train.json", "images": "images"}
    crowded = read_records(format="coco", root=str(tmp_path), split=split, name="train")
    settings = {"prob": 1.0, "max_side_px": 30.0, "copies": 1}
    with pytest.raises(UsageError, match="touches another box"):
        check_augmentations(crowded, {"copy_paste": settings})


def test_copy_paste_takes_from_other_images_where_there_is_nothing_small(records: Records) -> None:
    augment = {"copy_paste": {"prob": 1.0, "max_side_px": 12.0, "copies": 2}}
    dataset = dataset_of(records, augment)
    counts = [len(dataset[epoch, 6].boxes) for epoch in range(10)]
    assert min(counts) >= 1  # the image itself has no object
