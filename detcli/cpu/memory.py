"""How the C library hands out memory while a detector trains on the CPU."""

from __future__ import annotations

import ctypes
import sys

from detcli.cpu import wanted

M_MMAP_THRESHOLD = -3  # of glibc's mallopt(3)
LARGE = 12 * 2**20  # bytes; much less costs time, since pages of their own are new each time


def map_large_blocks() -> None:
    """Large tensors get pages of their own, which go back to the system when they are freed.

    By default glibc soon takes all blocks below 32 MiB from its heap, whose holes then are up to a
    quarter of what a training step holds. Nothing happens where the C library is another one.
    """
    if sys.platform == "linux" and wanted():
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, LARGE)
