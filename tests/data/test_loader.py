"""The loader: the same stream whatever the workers, exact resume, shares of ranks, errors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detcli.data.dataset import DetectionDataset
from detcli.data.loader import Loader, build_loader
from detcli.data.plan import evaluation_plan, training_plan
from detcli.data.records import Records
from detcli.data.to_device import to_device
from detcli.data.transforms import build_transforms
from detcli.errors import DataError
from detcli.types import Batch, Target
from tests.data.build import loading, read_some_tall, write_image

CALL = ("batch_per_rank", "rank", "world_size")
RESIZE: dict[str, Any] = {"short": [32, 40], "long": 80, "pick": "choice", "eval_short": None}
AUGMENT: dict[str, Any] = {
    "flip": {"horizontal": 0.5, "vertical": 0.5},
    "photometric": {"prob": 0.5},
    "zoom_out": {"prob": 0.3, "max_scale": 2.0},
    "iou_crop": {"prob": 0.5},
}


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """11 images, four of them tall; the last without objects."""
    return read_some_tall(tmp_path, 11, 4)


def loader_of(records: Records, *, train: bool = True, **options: Any) -> Loader:
    transforms = build_transforms(resize=RESIZE, augment=AUGMENT, train=train)
    call: dict[str, Any] = {"batch_per_rank": 2, "shuffle": train, "seed": 5}
    call |= {key: options.pop(key) for key in CALL if key in options}
    settings = loading(**{"persistent_workers": True, **options})
    return build_loader(DetectionDataset(records, transforms, seed=5), settings, **call)


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        x.indices == y.indices
        and x.fired == y.fired
        and torch.equal(x.images, y.images)
        and all(
            torch.equal(s.boxes, t.boxes)
            and torch.equal(s.labels, t.labels)
            and torch.equal(s.ignore_boxes, t.ignore_boxes)
            and s.size == t.size
            for s, t in zip(x.targets, y.targets, strict=True)
        )
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("persistent", [True, False])
def test_the_stream_does_not_depend_on_workers(records: Records, persistent: bool) -> None:
    loaders = [
        loader_of(records, workers=workers, persistent_workers=persistent) for workers in (0, 1, 2)
    ]
    epochs = [[list(loader.start(epoch)) for epoch in (0, 1)] for loader in loaders]
    for later in epochs[1:]:
        assert same(epochs[0][0], later[0])
        assert same(epochs[0][1], later[1])  # the epoch reaches workers that stay alive
    assert not same(epochs[0][0], epochs[0][1])


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_gives_the_tail_of_the_epoch(records: Records, workers: int) -> None:
    whole = list(loader_of(records).start(3))
    loader = loader_of(records, workers=workers)
    for skip in (0, 2, len(whole)):
        assert same(list(loader.start(3, skip)), whole[skip:])


def test_an_abandoned_epoch_leaves_nothing_behind(records: Records) -> None:
    loader = loader_of(records, workers=2)
    for _ in loader.start(0):
        break
    assert same(list(loader.start(1)), list(loader_of(records).start(1)))


def test_skipped_batches_are_not_decoded(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, loaded = loader_of(records), []
    load = loader.dataset.load
    monkeypatch.setattr(loader.dataset, "load", lambda i: (loaded.append(i), load(i))[1])
    batches = list(loader.start(0, skip=4))
    assert sorted(loaded) == sorted(i for batch in batches for i in batch.indices)


def test_the_global_generators_are_left_alone(records: Records) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(loader_of(records).start(0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_images_without_objects_are_kept(records: Records) -> None:
    batches = list(loader_of(records).start(0))
    empty = [
        target
        for batch in batches
        for target, index in zip(batch.targets, batch.indices, strict=True)
        if index == 10
    ]
    assert len(empty) >= 1
    assert empty[0].boxes.shape == (0, 4)
    assert empty[0].ignore_boxes.shape == (0, 4)


def test_crowds_are_ignored_not_learnt(records: Records) -> None:
    batch = next(iter(loader_of(records, train=False).start(0)))
    assert records.crowd[:2].tolist() == [False, True]
    target = batch.targets[0]
    scale = target.size[0] / 60
    assert torch.allclose(target.boxes, torch.tensor([[1.0, 2, 21, 12]]) * scale, atol=0.02)
    assert torch.allclose(target.ignore_boxes, torch.tensor([[5.0, 5, 35, 35]]) * scale, atol=0.02)
    assert target.labels.tolist() == [1]


def test_padding_is_right_and_below_to_the_multiple(records: Records) -> None:
    for batch in loader_of(records).start(0):
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        heights, widths = zip(*(target.size for target in batch.targets), strict=True)
        assert batch.images.shape[2] - max(heights) < 32
        assert batch.images.shape[3] - max(widths) < 32
        for image, (height, width) in zip(
            batch.images, zip(heights, widths, strict=True), strict=True
        ):
            assert image[:, height:].sum() == image[:, :, width:].sum() == 0


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_to_device_normalises_and_leaves_padding_zero(channels: str) -> None:
    raw = torch.randint(0, 255, (2, 3, 8, 12), dtype=torch.uint8)
    empty = torch.zeros(0, 4)
    sizes = ((8, 7), (5, 12))
    targets = tuple(Target(empty, torch.zeros(0, dtype=torch.long), empty, s) for s in sizes)
    mean, std = (10.0, 20.0, 30.0), (2.0, 3.0, 4.0)
    images, moved = to_device(
        Batch(raw, targets, (0, 1)), "cpu", mean=mean, std=std, channels=channels
    )
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert [target.size for target in moved] == list(sizes)
    for image, pixels, (height, width) in zip(images, raw, sizes, strict=True):
        assert image[:, height:].abs().sum() == image[:, :, width:].abs().sum() == 0
        for c in range(3):
            source = pixels[c if channels == "rgb" else 2 - c, :height, :width].double()
            expected = (source - mean[c]) / std[c]
            assert torch.allclose(image[c, :height, :width].double(), expected, atol=1e-5)


def test_an_image_changes_from_epoch_to_epoch(records: Records) -> None:
    dataset = loader_of(records).dataset
    fired = {dataset[(epoch, 5)].fired for epoch in range(12)}
    assert len(fired) > 2
    assert torch.equal(dataset[(3, 5)].image, dataset[(3, 5)].image)


def test_fired_counts_are_sums_over_the_batch(records: Records) -> None:
    always = AUGMENT | {"flip": {"horizontal": 1.0, "vertical": 0.0}, "photometric": None}
    transforms = build_transforms(resize=RESIZE, augment=always, train=True)
    loader = build_loader(
        DetectionDataset(records, transforms, seed=0),
        loading(
            workers=0,
            prefetch_factor=2,
            persistent_workers=False,
            group_by_aspect=False,
            pad_multiple=1,
        ),
        batch_per_rank=3,
        shuffle=True,
    )
    total: Counter[str] = Counter()
    for batch in loader.start(0):
        assert batch.fired["flip_horizontal"] == 3
        total.update(batch.fired)
    assert total["iou_crop"] > 0
    assert "photometric" not in total


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_later_is_one_line(records: Records, workers: int) -> None:
    path = Path(records.path(7))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"7\.jpg") as caught:
        list(loader_of(records, workers=workers).start(0))
    assert "\n" not in str(caught.value)


def test_a_file_that_changes_size_later_is_one_line(records: Records) -> None:
    write_image(Path(records.path(7)), (41, 60))
    with pytest.raises(DataError, match=r"7\.jpg: expected 60x40 .* got 60x41"):
        list(loader_of(records).start(0))


# --- plans


@pytest.mark.parametrize("count", [1, 5, 16, 101])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_training_plan(count: int, world_size: int, batch: int) -> None:
    wide = np.random.default_rng(0).random(count) < 0.6
    plan = training_plan(wide, count, seed=1, epoch=0, batch=batch, world_size=world_size)
    assert len(plan) % world_size == 0
    assert {len(part) for part in plan} == {batch}
    seen = Counter(int(i) for part in plan for i in part)
    assert set(seen) == set(range(count))
    extra = sum(seen.values()) - count
    assert 0 <= extra < batch * world_size
    mixed = sum(len(set(wide[part].tolist())) == 2 for part in plan)
    assert mixed <= 2 + (batch * world_size - 1) // batch


def test_training_plans_differ_by_epoch_and_seed_only() -> None:
    def plan(seed: int, epoch: int) -> list[list[int]]:
        parts = training_plan(None, 50, seed=seed, epoch=epoch, batch=4, world_size=1)
        return [part.tolist() for part in parts]

    assert plan(0, 0) == plan(0, 0)
    assert plan(0, 0) != plan(0, 1)
    assert plan(0, 0) != plan(1, 0)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_evaluation_covers_every_image_once(count: int, world_size: int) -> None:
    shares = [
        np.concatenate(
            [np.zeros(0, int), *evaluation_plan(count, batch=3, rank=r, world_size=world_size)]
        )
        for r in range(world_size)
    ]
    assert np.concatenate(shares).tolist() == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_two_ranks_share_the_single_process_epoch(records: Records) -> None:
    whole = loader_of(records, batch_per_rank=2, world_size=2, rank=0).plan(0)
    other = loader_of(records, batch_per_rank=2, world_size=2, rank=1).plan(0)
    assert len(whole) == len(other) == len(loader_of(records, world_size=2, rank=1))
    seen = {int(i) for part in [*whole, *other] for i in part}
    assert seen == set(range(11))


@pytest.mark.slow
def test_memory_stays_flat_over_epochs(records: Records) -> None:
    """Resident memory of this process and its workers after many epochs, within 8 MiB."""

    def resident() -> int:
        import multiprocessing

        pids = ["self", *(str(child.pid) for child in multiprocessing.active_children())]
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
        return sum(pages) * 4096

    loader = loader_of(records, workers=2)
    for epoch in range(10):
        list(loader.start(epoch))
    before = resident()
    for epoch in range(10, 40):
        list(loader.start(epoch))
    assert resident() - before < 8 * 2**20
