"""Decoded images kept in memory, so that each file is read and decoded once per run."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from detcli.data.images import read_image
from detcli.data.records import Records
from detcli.errors import DataError

if TYPE_CHECKING:
    from detcli.data.images import Pixels

CGROUP = Path("/sys/fs/cgroup")  # limits of a container, version 2
SHARED_MEMORY = Path("/dev/shm")
MEMORY_INFO = Path("/proc/meminfo")


class ImageCache:
    """The pixels of all images of a record table, as stored, end to end in one block.

    shared: worker processes see the same block instead of a copy each. `fill` reads the files.
    """

    def __init__(self, records: Records, *, shared: bool) -> None:
        self.records = records
        self.starts = np.concatenate([[0], np.cumsum(records.sizes.prod(axis=1) * 3)])
        self._block = torch.empty(int(self.starts[-1]), dtype=torch.uint8)
        if shared:
            self._block.share_memory_()  # type: ignore[no-untyped-call]

    def fill(self, threads: int, advance: Callable[[int], None]) -> None:
        """Decode every image, `advance(1)` after each. Raises DataError as `read_pixels`."""
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(self._fill_one, range(len(self.records))):
                advance(1)

    def pixels(self, index: int) -> Pixels:
        """(H, W, 3) uint8 RGB, a copy that may be written to."""
        copy: Pixels = self._view(index).copy()
        return copy

    def _view(self, index: int) -> Pixels:
        start, stop = self.starts[index], self.starts[index + 1]
        shape = (*self.records.size(index), 3)
        return self._block[start:stop].view(shape).numpy()

    def _fill_one(self, index: int) -> None:
        self._view(index)[:] = read_pixels(self.records, index)


def read_pixels(records: Records, index: int) -> Pixels:
    """An image as it is on disk, (H, W, 3) uint8 RGB.

    Raises DataError for a file that is broken or has changed since the annotations were read.
    """
    path = records.path(index)
    pixels = read_image(path, apply_exif=bool(records.apply_exif[index]))
    if pixels.shape[:2] != records.size(index):
        said, real = (f"{w}x{h}" for h, w in (records.size(index), pixels.shape[:2]))
        raise DataError(f"{path}: expected {said} as when it was read first, got {real}")
    return pixels


def decoded_bytes(records: Records) -> int:
    """Memory that all images of a record table take when they are decoded."""
    return int(records.sizes.prod(axis=1).sum() * 3)


def free_bytes(*, shared: bool) -> int | None:
    """Memory that can still be had: of the machine, of this container, and, shared, of /dev/shm;
    None where the system does not say."""
    limits = [_available(), _container()]
    if shared and SHARED_MEMORY.is_dir():
        status = os.statvfs(SHARED_MEMORY)
        limits.append(status.f_bavail * status.f_frsize)
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _available() -> int | None:
    if not MEMORY_INFO.is_file():
        return None
    lines = dict(line.split(":", 1) for line in MEMORY_INFO.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _container() -> int | None:
    limit, used, parts = (CGROUP / f"memory.{name}" for name in ("max", "current", "stat"))
    if not limit.is_file() or limit.read_text().strip() == "max":
        return None
    counters = dict(line.split() for line in parts.read_text().splitlines())
    # The kernel gives up its copies of files when programs ask for memory.
    return int(limit.read_text()) - int(used.read_text()) + int(counters["inactive_file"])
