"""Duck injection, and what refuses blended objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given

from detcli.data.dataset import DetectionDataset
from detcli.data.loader import build_loader
from detcli.data.mutual_information import mutual_information
from detcli.data.records import Records
from detcli.data.transforms import Sample, build_transforms, check_augmentations
from detcli.data.transforms.blending import pixels_of
from detcli.data.transforms.duck import DuckInjection, inject
from detcli.data.transforms.paste import overlaps
from detcli.data.transforms.patches import INDEX, is_whole, with_room
from detcli.errors import UsageError
from tests.data.build import loading
from tests.data.transforms.augmenting import painted, seeded
from tests.data.transforms.cut_patches import negative, patch_of
from tests.data.transforms.scenes import FEW, SEEDS, agree, noise, scenes
from tests.data.transforms.test_build_checks import RESIZE
from tests.models.specs import SMALL, detector

BLENDS = pytest.mark.parametrize("blend", ["poisson", "inpaint"])


@BLENDS
@FEW
@given(sample=scenes(num_max=1), other=scenes(num_max=1, first=1), seed=SEEDS)
def test_boxes_follow_injected_objects(
    sample: Sample, other: Sample, blend: str, seed: int
) -> None:
    """Each box is where its paint is, and none overlaps another."""
    assume(len(other.boxes) and is_whole(other.boxes[0], other.size))
    patches = [patch_of(other, label=1)]
    result, (attempt,) = seeded(
        seed, lambda: inject(sample, patches, places=5, threshold=0.0, blend=blend)
    )
    assert (attempt.placed is not None) == (len(attempt.places) > 0)
    assert len(result.boxes) == len(sample.boxes) + (attempt.placed is not None)
    # Half the contrast lies within the ring that is filled from both sides.
    ring = max(2, round((other.boxes[0, 2:] - other.boxes[0, :2]).min().item() / 8))
    agree(result, 1.0 if blend == "poisson" else ring)
    for box in result.boxes:
        assert overlaps(result.boxes, box).sum() == 1
    assert result.ignore.tolist()[: len(sample.boxes)] == sample.ignore.tolist()
    assert not result.ignore[len(sample.boxes) :].any()


def test_the_best_of_several_places_is_taken() -> None:
    """A half bright, half dark image, and a patch of such halves: only the seam suits it."""
    image = torch.zeros(40, 120, 3, dtype=torch.uint8).permute(2, 0, 1).clone()
    image[:, :, 60:] = 200
    sample = painted((40, 120), [], []).changed(image=image)
    cut = sample.changed(image=sample.image[:, :20, 50:70].clone())
    patch = with_room(cut, (5, 5, 15, 15))
    _, (attempt,) = seeded(
        3, lambda: inject(sample, [patch], places=40, threshold=0.1, blend="poisson")
    )
    assert len(attempt.places) == 40
    best = max(attempt.places, key=lambda place: place.mutual_information)
    assert attempt.placed == best
    assert abs(best.left + 10 - 60) <= 2
    for top, left, value in attempt.places:
        there = pixels_of(sample.image[:, top : top + 20, left : left + 20])
        assert value == mutual_information(pixels_of(patch.sample.image), there)
    _, (refused,) = seeded(
        3, lambda: inject(sample, [patch], places=40, threshold=1.0, blend="poisson")
    )
    assert refused.placed is None
    assert refused.places == attempt.places


def test_patches_keep_clear_of_boxes_and_of_each_other() -> None:
    sample = painted((90, 90), [[0, 0, 40, 90], [70, 60, 90, 90]], [False, True])
    for seed in range(20):
        result, attempts = seeded(
            seed, lambda: inject(sample, [negative()] * 4, places=5, threshold=0.0, blend="inpaint")
        )
        windows = list(sample.boxes)
        for attempt in attempts:
            if attempt.placed:
                top, left, _ = attempt.placed
                height, width = attempt.patch.sample.size
                window = torch.tensor([left, top, left + width, top + height]).float()
                assert not overlaps(torch.stack(windows), window).any()
                windows.append(window)
        assert torch.equal(result.boxes, sample.boxes)
        assert torch.equal(result.image[:, :, :40], sample.image[:, :, :40])


def test_a_patch_larger_than_the_image_has_no_room() -> None:
    sample = painted((20, 20), [], [])
    result, (attempt,) = inject(sample, [negative(30)], places=5, threshold=0.0, blend="poisson")
    assert attempt.places == ()
    assert attempt.placed is None
    assert torch.equal(result.image, sample.image)


def settings_of(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "prob": 1.0,
        "patches": str(folder),
        "negatives": 2,
        "objects": 1,
        "places": 4,
        "threshold": 0.0,
        "blend": "poisson",
    } | changes


def test_duck_injection_says_what_it_placed(folder: Path) -> None:
    sample = painted((120, 120), [[5, 5, 30, 30]], [False]).changed(image=noise(120, 120))
    transform = DuckInjection(**settings_of(folder))
    assert transform.names == ("duck_negative", "duck_object")
    out = seeded(1, transform, sample)
    assert out.fired == ("duck_negative", "duck_object")
    assert out.labels.tolist() == [0, 0]
    assert torch.equal(out.boxes[0], sample.boxes[0])
    assert not torch.equal(out.image, sample.image)
    only = DuckInjection(**settings_of(folder, objects=0))
    assert only.names == ("duck_negative",)
    out = seeded(1, only, sample)
    assert out.fired == ("duck_negative",)
    assert torch.equal(out.boxes, sample.boxes)
    assert seeded(1, DuckInjection(**settings_of(folder, threshold=3.0)), sample) is sample
    assert seeded(1, DuckInjection(**settings_of(folder, prob=0.0)), sample) is sample


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patches": "nowhere"}, "nowhere has no patches.json"),
        ({"negatives": 0, "objects": 1, "classes": ["cat"]}, "has the classes cat, and the data"),
        ({"keep": ["object"]}, "has no negatives, but negatives is 2; set that to 0"),
        ({"keep": ["wrong"]}, "has no objects, but objects is 1; set that to 0"),
    ],
)
def test_patches_that_cannot_be_used_are_refused(
    changes: dict[str, Any], reason: str, folder: Path, records: Records
) -> None:
    content = json.loads((folder / INDEX).read_text())
    if "classes" in changes:
        content["class_names"] = changes.pop("classes")
        for entry in content["patches"]:
            entry["category"] = entry["category"] and "cat"
    kept = changes.pop("keep", ["wrong", "a.png"])
    kept = ["a.png"] if kept == ["object"] else kept
    content["patches"] = [
        entry for entry in content["patches"] if entry["file"].startswith(tuple(kept))
    ]
    (folder / INDEX).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"duck_injection cannot act: patches: ") as caught:
        check_augmentations(records, {"duck_injection": settings_of(folder) | changes})
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_fits_is_accepted(folder: Path, records: Records) -> None:
    check_augmentations(records, {"duck_injection": settings_of(folder)})
    check_augmentations(records, {"poisson": {"prob": 1.0, "objects": 1}})


@pytest.mark.parametrize(
    ("images", "reason"),
    [([0], "it mixes different images"), ([6, 6], "no training image has an object")],
)
def test_poisson_that_cannot_act_is_refused(
    images: list[int], reason: str, records: Records
) -> None:
    with pytest.raises(UsageError, match=f"poisson cannot act: {reason}"):
        check_augmentations(records.take(images), {"poisson": {"prob": 1.0, "objects": 1}})


@pytest.mark.parametrize("name", ["retinanet", "fcos", "atss"])
def test_detectors_learn_from_injected_images(name: str, folder: Path, records: Records) -> None:
    """Finite losses and gradients everywhere, also where a batch has hard negatives only."""
    model = detector(name, SMALL, num_classes=3)
    for images, objects in (([0, 1], 1), ([6, 6], 0)):
        duck = settings_of(folder, negatives=1, objects=objects)
        augment = {"duck_injection": duck, "poisson": {"prob": 1.0, "objects": 1}}
        transforms = build_transforms(resize=RESIZE, augment=augment, train=True)
        dataset = DetectionDataset(records.take(images), transforms, seed=2)
        loader = build_loader(
            dataset,
            loading(
                workers=0,
                prefetch_factor=2,
                persistent_workers=False,
                group_by_aspect=False,
                pad_multiple=32,
            ),
            batch_per_rank=2,
            shuffle=True,
        )
        (batch,) = loader.start(0)
        assert batch.fired["duck_negative"] > 0
        assert any(len(target.boxes) for target in batch.targets) == bool(objects)
        model.zero_grad()
        losses = model.loss(model(batch.images.float() / 64 - 2), batch.targets)
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, key
                assert torch.isfinite(parameter.grad).all(), key
