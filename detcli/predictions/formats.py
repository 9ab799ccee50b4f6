"""Columns of predictions to and from the bytes of COCO results JSON and of .npz."""

from __future__ import annotations

import gc
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import numpy as np

from detcli.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import FloatArray, IntArray

Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Row4 = tuple[float, float, float, float]

EXTRA_COLUMNS = {"iou": 1, "sigma": 4, "density": 1}  # numbers per row
_REQUIRED_ARRAYS = {
    "image_id": (np.integer, 1),
    "category_id": (np.integer, 1),
    "bbox": (np.floating, 4),
    "score": (np.floating, 1),
}
_CHUNK = 20_000  # entries encoded at a time, so that memory stays flat
_GZIP_MAGIC = b"\x1f\x8b"


class Entry(msgspec.Struct, gc=False, omit_defaults=True):
    """One element of a COCO results list; other keys are ignored."""

    image_id: Id
    category_id: Id
    bbox: Row4
    score: float
    iou: float | None = None
    sigma: Row4 | None = None
    density: float | None = None


@dataclass(frozen=True)
class Columns:
    """The columns of a predictions file, in file order, with the data set's own ids."""

    image_id: IntArray  # (N,)
    category_id: IntArray  # (N,)
    bbox: FloatArray  # (N, 4)
    score: FloatArray  # (N,)
    extra: Mapping[str, FloatArray]


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzip. Raises DataError when it cannot be read or
    is empty."""
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a complete gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not content.strip():
        raise DataError(f"{path}: the file is empty ({len(content)} bytes)")
    return content


def write_json(file: IO[bytes], columns: Columns) -> None:
    """Write a results list; numbers in their shortest form that reads back exactly."""
    encoder = msgspec.json.Encoder()
    names = tuple(columns.extra)
    file.write(b"[")
    for start in range(0, len(columns.score), _CHUNK):
        rows = slice(start, start + _CHUNK)
        values = zip(
            *(getattr(columns, name)[rows].tolist() for name in _REQUIRED_ARRAYS),
            *(columns.extra[name][rows].tolist() for name in names),
            strict=True,
        )
        entries = [
            Entry(image, category, box, score, **dict(zip(names, extra, strict=True)))
            for image, category, box, score, *extra in values
        ]
        file.write(b",\n" if start else b"")
        file.write(encoder.encode(entries)[1:-1])
    file.write(b"]\n")


def write_npz(file: IO[bytes], columns: Columns) -> None:
    """Write one array per column."""
    arrays: dict[str, Any] = {name: getattr(columns, name) for name in _REQUIRED_ARRAYS}
    np.savez(file, **(arrays | dict(columns.extra)))


def read_json(path: Path) -> Columns:
    """Read a results list. Raises DataError with the entry's number, counted from 0."""
    with _no_garbage_collection():
        return _columns_of(path, _decode(path, read_bytes(path)))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A million new tuples make Python look for cycles among them, which costs a quarter of the
    time of reading and never finds one."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _columns_of(path: Path, entries: list[Entry]) -> Columns:
    def numbers(name: str, dtype: Any) -> NDArray[Any]:
        return np.fromiter(map(attrgetter(name), entries), dtype, len(entries))

    boxes = chain.from_iterable(map(attrgetter("bbox"), entries))
    columns = {name: list(map(attrgetter(name), entries)) for name in EXTRA_COLUMNS}
    return Columns(
        numbers("image_id", np.int64),
        numbers("category_id", np.int64),
        np.fromiter(boxes, np.float64, 4 * len(entries)).reshape(-1, 4),
        numbers("score", np.float64),
        {
            name: _extra_column(path, name, values)
            for name, values in columns.items()
            if values.count(None) < len(values)
        },
    )


def _decode(path: Path, content: bytes) -> list[Entry]:
    try:
        return msgspec.json.decode(content, type=list[Entry])
    except msgspec.ValidationError as error:
        _fail_validation(path, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # Python's own reader is slow but takes NaN and Infinity, which can then be reported by entry.
    try:
        return msgspec.convert(json.loads(content), list[Entry])
    except msgspec.ValidationError as error:
        _fail_validation(path, error)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not complete, valid JSON: {error}") from None


def _fail_validation(path: Path, error: msgspec.ValidationError) -> NoReturn:
    """msgspec says what is wrong and, as in `$[3].score`, where."""
    what, _, where = str(error).partition(" - at `$")
    found = re.match(r"\[(\d+)\]\.?([^`]*)", where)
    if found is None:
        raise DataError(f"{path}: not a list of COCO results: {what}") from None
    key = f", key {found[2]!r}" if found[2] else ""
    raise DataError(f"{path}: entry {found[1]}{key}: {what}") from None


def _extra_column(path: Path, name: str, values: list[Any]) -> FloatArray:
    if None in values:
        raise DataError(
            f"{path}: entry {values.index(None)} has no {name!r}, other entries have one"
        )
    return np.array(values, np.float64)


def read_npz(path: Path) -> Columns:
    """Read the arrays. Raises DataError on a damaged file, missing arrays or wrong shapes."""
    content = io.BytesIO(read_bytes(path))
    try:
        with np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile and NumPy raise a dozen types on damaged files
        raise DataError(f"{path}: not a complete .npz file: {error}") from None
    missing = [name for name in _REQUIRED_ARRAYS if name not in arrays]
    if missing:
        raise DataError(f"{path}: array {missing[0]!r} is missing")
    extra = {name: (np.floating, width) for name, width in EXTRA_COLUMNS.items() if name in arrays}
    count = len(arrays["score"]) if arrays["score"].ndim else 0
    columns: dict[str, NDArray[Any]] = {}
    for name, (kind, width) in (_REQUIRED_ARRAYS | extra).items():
        shape = (count,) if width == 1 else (count, width)
        array = arrays[name]
        if not np.issubdtype(array.dtype, kind) or array.shape != shape:
            raise DataError(
                f"{path}: array {name!r}: expected {kind.__name__} {shape}, "
                f"got {array.dtype} {array.shape}"
            )
        columns[name] = array.astype(np.int64 if kind is np.integer else np.float64)
    return Columns(
        columns["image_id"],
        columns["category_id"],
        columns["bbox"],
        columns["score"],
        {name: columns[name] for name in extra},
    )
