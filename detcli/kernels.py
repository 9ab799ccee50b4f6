"""What the compiled kernels share: the decorator that compiles them, and a stable sort.

Importing this module imports numba (a quarter of a second), so callers import it, and the
modules that hold their kernels, inside the function that needs them.

A kernel must not call a kernel of another file: numba's cache looks only at the file of the
outer one, so an edit of the inner one would go unnoticed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import FloatArray, IntArray

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_QUIET_SECONDS = 0.7  # loading every kernel from the cache takes less
_INSERTION_LIMIT = 40  # below this many elements insertion beats eight counting passes


class _CompileClock:
    """Says once per process that kernels are being compiled, when that takes long altogether."""

    def __init__(self, quiet_seconds: float) -> None:
        self.quiet_left = quiet_seconds
        self.announced = False

    def announce(self) -> None:
        if not self.announced:
            self.announced = True
            text = "detcli: compiling kernels, once for this machine (some seconds) ..."
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        timer = Timer(max(self.quiet_left, 0.0), self.announce)
        timer.daemon = True
        start = monotonic()
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self.quiet_left -= monotonic() - start


_clock = _CompileClock(_QUIET_SECONDS)


def jit(signature: str) -> Callable[[Kernel], Kernel]:
    """Compile a function for one signature, or load it from numba's on-disk cache.

    Division follows IEEE 754 and nothing is reordered, so results equal plain NumPy's bit for
    bit. Says so in one line on stderr when compiling takes long. Where no folder for the cache
    is writable, the function is compiled in each process.
    """

    def compile_now(function: Kernel) -> Kernel:
        options = {"error_model": "numpy", "nogil": True}
        with _clock.running():
            try:
                return cast(Kernel, njit(signature, cache=True, **options)(function))
            except RuntimeError as error:
                if "cannot cache" not in str(error):
                    raise
                return cast(Kernel, njit(signature, **options)(function))

    return compile_now


def as_kernel_input(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The array as kernels take it: of this type, contiguous, writable; a copy only if needed."""
    return np.require(array, dtype, ["C_CONTIGUOUS", "WRITEABLE"])


@jit("void(u8[::1], i8[::1], i8, i8)")
def _insertion_sort(keys: Any, rows: Any, first: int, last: int) -> None:
    for i in range(first + 1, last):
        key, row = keys[i], rows[i]
        j = i - 1
        while j >= first and keys[j] > key:
            keys[j + 1], rows[j + 1] = keys[j], rows[j]
            j -= 1
        keys[j + 1], rows[j + 1] = key, row


@jit("void(u8[::1], i8[::1], i8, i8, u8[::1], i8[::1], i8[:, ::1])")
def _radix_sort(
    keys: Any, rows: Any, first: int, last: int, spare_keys: Any, spare_rows: Any, counts: Any
) -> None:
    """Least significant byte first; bytes in which no two keys differ cost nothing."""
    counts[:] = 0
    for i in range(first, last):
        key = keys[i]
        for byte in range(8):
            counts[byte, (key >> np.uint64(8 * byte)) & np.uint64(255)] += 1
    for byte in range(8):
        shift = np.uint64(8 * byte)
        if counts[byte, (keys[first] >> shift) & np.uint64(255)] == last - first:
            continue
        position = 0
        for digit in range(256):
            count = counts[byte, digit]
            counts[byte, digit] = position
            position += count
        for i in range(first, last):
            digit = (keys[i] >> shift) & np.uint64(255)
            j = counts[byte, digit]
            counts[byte, digit] = j + 1
            spare_keys[j], spare_rows[j] = keys[i], rows[i]
        for i in range(last - first):
            keys[first + i], rows[first + i] = spare_keys[i], spare_rows[i]


@jit("void(u8[::1], i8[::1], i8[::1])")
def _sort_segments(keys: Any, rows: Any, offsets: Any) -> None:
    longest = 0
    for i in range(len(offsets) - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    spare_keys, spare_rows = np.empty(longest, np.uint64), np.empty(longest, np.int64)
    counts = np.empty((8, 256), np.int64)
    for i in range(len(offsets) - 1):
        first, last = offsets[i], offsets[i + 1]
        if last - first < _INSERTION_LIMIT:
            _insertion_sort(keys, rows, first, last)
        else:
            _radix_sort(keys, rows, first, last, spare_keys, spare_rows, counts)


def descending_order(scores: FloatArray, offsets: IntArray) -> IntArray:
    """Row numbers by (score descending, input order) within each segment.

    scores (N,) float64, finite; segment s owns rows offsets[s]:offsets[s + 1]; returns (N,).
    """
    bits = (np.asarray(scores, np.float64) + 0.0).view(np.int64)  # + 0.0: no negative zero
    # As unsigned integers, positive floats order like their bits and negative ones against them.
    ascending = bits ^ ((bits >> 63) & np.int64(0x7FFF_FFFF_FFFF_FFFF))
    keys = (~ascending).view(np.uint64) ^ np.uint64(1 << 63)
    rows = np.arange(len(keys))
    _sort_segments(keys, rows, as_kernel_input(offsets, np.int64))
    return rows
