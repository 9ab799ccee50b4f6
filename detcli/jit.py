"""What the compiled kernels share: the decorator that compiles them, and a stable sort.

Importing this module imports numba (a quarter of a second), so callers import it, and the
modules that hold their kernels, inside the function that needs them.

A kernel must not call a kernel of another file: numba's cache looks only at the file of the
outer one, so an edit of the inner one would go unnoticed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import FloatArray, IntArray

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_INSERTION_LIMIT = 40  # below this many elements insertion beats eight counting passes


@cache
def _announce() -> None:
    """Once per process, whatever the number of kernels: why the user waits."""
    text = "detcli: compiling kernels, once for this machine (some seconds) ..."
    print(text, file=sys.stderr, flush=True)


def _is_cached(dispatcher: Any) -> bool:
    """Whether numba's cache holds the function as its source file is now.

    numba has no call for this. Should its file names ever change, the announcement comes once
    too often, nothing worse.
    """
    code = dispatcher.py_func.__code__
    source_time = Path(code.co_filename).stat().st_mtime
    pattern = f"*.{code.co_name}-{code.co_firstlineno}.*.nbi"
    found = Path(dispatcher.stats.cache_path).glob(pattern)
    return any(index.stat().st_mtime >= source_time for index in found)


def jit(signature: str) -> Callable[[Kernel], Kernel]:
    """Compile a function for one signature, or load it from numba's on-disk cache.

    Division follows IEEE 754 and nothing is reordered, so results equal plain NumPy's bit for
    bit. Compiling is announced in one line on stderr. Where no folder for the cache is writable,
    each process compiles anew.
    """

    def compile_now(function: Kernel) -> Kernel:
        options: Any = {"error_model": "numpy", "nogil": True}
        try:
            dispatcher: Any = njit(cache=True, **options)(function)
            cached = _is_cached(dispatcher)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            dispatcher = njit(**options)(function)
            cached = False
        if not cached:
            _announce()
        dispatcher.compile(signature)
        dispatcher.disable_compile()
        return cast(Kernel, dispatcher)

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
