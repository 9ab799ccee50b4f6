"""What the compiled kernels share: the decorators that compile them, the overlap of two boxes, and
a stable sort.

Importing this module imports numba (a quarter of a second), so callers import it, and the
modules that hold their kernels, inside the function that needs them.

A kernel may call kernels of its own file and what is `inlined` here. numba's cache looks only at
the file of the outer kernel and, by our addition, at this one: no edit elsewhere would be noticed.
"""

from __future__ import annotations

import hashlib
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

_THIS_FILE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
_INSERTION_LIMIT = 40  # below this many elements insertion beats eight counting passes


@cache
def _announce() -> None:
    """Once per process, whatever the number of kernels: why the user waits."""
    text = "detcli: compiling kernels, once for this machine (some seconds) ..."
    print(text, file=sys.stderr, flush=True)


def _is_cached(dispatcher: Any) -> bool:
    """Whether numba's cache holds the function as its source file and this one are now.

    numba has no public call for either; it stores when and how long the source file was, and takes
    what it stored only where that is the same.
    """
    index = dispatcher._cache._cache_file
    index._source_stamp = (index._source_stamp, _THIS_FILE)
    return bool(index._load_index())


def inlined(function: Kernel) -> Kernel:
    """A helper that becomes a part of every kernel that calls it, for arguments of any type."""
    return cast(Kernel, njit(inline="always", error_model="numpy")(function))


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


# A box of the functions below is x1, y1, x2, y2, area: a tuple, or a row of an array.


@inlined
def box_of(xywh: Any) -> Any:
    """The box with this corner, width and height."""
    x, y, width, height = xywh[0], xywh[1], xywh[2], xywh[3]  # unpacking would check the length
    return x, y, x + width, y + height, width * height


@inlined
def shared_area(one: Any, other: Any) -> Any:
    """The area that two boxes have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0.0 and height > 0.0 else 0.0


@inlined
def iou_or_share(one: Any, other: Any, share: bool) -> Any:
    """IoU of two boxes or, as COCO has it for crowd regions, the share of the first that lies in
    the other; 0 where they do not overlap, with or without an area."""
    shared = shared_area(one, other)
    if shared <= 0.0:
        return 0.0
    return shared / (one[4] if share else one[4] + other[4] - shared)


@inlined
def box_iou(one: Any, other: Any) -> Any:
    """IoU of two boxes."""
    return iou_or_share(one, other, False)


@inlined
def centre_penalty(one: Any, other: Any) -> Any:
    """Squared distance of two centres over the squared diagonal of the enclosing box."""
    across = np.float64(one[0] + one[2] - other[0] - other[2])
    down = np.float64(one[1] + one[3] - other[1] - other[3])
    width = np.float64(max(one[2], other[2]) - min(one[0], other[0]))
    height = np.float64(max(one[3], other[3]) - min(one[1], other[1]))
    return (across * across + down * down) / (4.0 * (width * width + height * height))


@inlined
def longest(offsets: Any) -> Any:
    """Rows of the longest of the segments offsets[s]:offsets[s + 1]."""
    most = 0
    for i in range(len(offsets) - 1):
        most = max(most, offsets[i + 1] - offsets[i])
    return most


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
    most = longest(offsets)
    spare_keys, spare_rows = np.empty(most, np.uint64), np.empty(most, np.int64)
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
