"""Decoded images in memory: the same batches, counted, shared, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detcli.data import cache as cache_module
from detcli.data.cache import ImageCache, decoded_bytes, free_bytes, read_pixels
from detcli.data.dataset import DetectionDataset
from detcli.data.loader import Loader, build_loader
from detcli.data.records import Records
from detcli.data.transforms import build_transforms
from detcli.errors import DataError
from detcli.types import Batch
from tests.data.build import loading, read_some_tall

AUGMENT: dict[str, Any] = {
    "flip": {"horizontal": 0.5, "vertical": 0.5},
    "photometric": {"prob": 0.5},
    "copy_paste": {"prob": 1.0, "max_side_px": 64.0, "copies": 3},  # writes pixels in place
    "mosaic": {"prob": 0.5, "scale": [0.5, 1.0]},
    "mixup": {"prob": 0.5, "alpha": 1.5},
    "cutout": {"prob": 0.5, "num": 1, "side": 0.25},
}


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """6 images, two of them tall."""
    return read_some_tall(tmp_path, 6, 2)


def loader_of(records: Records, cache: ImageCache | None, workers: int) -> Loader:
    resize = {"short": [32], "long": 80, "pick": "choice", "eval_short": None}
    transforms = build_transforms(resize=resize, augment=AUGMENT, train=True)
    return build_loader(
        DetectionDataset(records, transforms, seed=5, cache=cache),
        loading(
            workers=workers,
            prefetch_factor=2,
            persistent_workers=True,
            group_by_aspect=True,
            pad_multiple=32,
        ),
        batch_per_rank=2,
        shuffle=True,
        seed=5,
    )


def filled(records: Records, *, shared: bool) -> ImageCache:
    cache = ImageCache(records, shared=shared)
    cache.fill(2, lambda count: None)
    return cache


def assert_same(cached: list[Batch], plain: list[Batch]) -> None:
    for mine, theirs in zip(cached, plain, strict=True):
        assert mine.indices == theirs.indices
        assert torch.equal(mine.images, theirs.images)
        assert dict(mine.fired) == {**theirs.fired, "ram_cache": len(mine.indices)}
        for one, other in zip(mine.targets, theirs.targets, strict=True):
            assert torch.equal(one.boxes, other.boxes)
            assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_without_a_cache_bit_for_bit(records: Records, workers: int) -> None:
    """Two epochs: an augmentation that spoiled the cache would show in the second."""
    cached = loader_of(records, filled(records, shared=workers > 0), workers)
    plain = loader_of(records, None, 0)
    for epoch in (0, 1):
        assert_same(list(cached.start(epoch)), list(plain.start(epoch)))


@pytest.mark.parametrize("workers", [0, 1])
def test_no_file_is_read_again(records: Records, workers: int) -> None:
    cache = filled(records, shared=workers > 0)
    for index in range(len(records)):
        Path(records.path(index)).unlink()
    assert sum(len(batch.indices) for batch in loader_of(records, cache, workers).start(0)) == 6


def test_pixels_are_copies_of_what_is_on_disk(records: Records) -> None:
    cache = filled(records, shared=False)
    assert decoded_bytes(records) == cache.starts[-1] == 2 * 60 * 40 * 3 + 4 * 40 * 60 * 3
    for index in range(len(records)):
        pixels = cache.pixels(index)
        assert np.array_equal(pixels, read_pixels(records, index))
        pixels[:] = 0
        assert cache.pixels(index).any()


def test_a_broken_image_is_said_before_the_first_step(records: Records) -> None:
    Path(records.path(3)).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.jpg"):
        filled(records, shared=False)


def test_free_memory_is_the_least_of_machine_container_and_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "CGROUP", tmp_path)
    monkeypatch.setattr(cache_module, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(cache_module, "SHARED_MEMORY", tmp_path / "absent")
    assert free_bytes(shared=True) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5000 kB\n")
    assert free_bytes(shared=False) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(shared=False) == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert free_bytes(shared=False) == 1_500_000
    monkeypatch.setattr(cache_module, "SHARED_MEMORY", tmp_path)
    assert free_bytes(shared=True) == 1_500_000
