"""Predictions on disk: COCO results JSON or .npz, with a .meta.json next to either.

JSON: a list of {"image_id", "category_id", "bbox": [left, top, width, height], "score"} with the
data set's own ids, and optional keys "iou", "sigma" (4 numbers) and "density". The .npz holds
the same columns under the same names. Either may be packed with gzip (`a.json.gz`) to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from detcli.errors import DataError, UsageError
from detcli.files import write_atomically
from detcli.predictions.formats import (
    EXTRA_COLUMNS,
    Columns,
    read_bytes,
    read_json,
    read_npz,
    write_json,
    write_npz,
)
from detcli.types import Detections, offsets_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import BoolArray, GroundTruth, IntArray

SCORE_LIMIT = 0.05  # published settings cut candidates at this score
_WRITERS: dict[str, Callable[[IO[bytes], Columns], None]] = {".json": write_json, ".npz": write_npz}
_READERS: dict[str, Callable[[Path], Columns]] = {".json": read_json, ".npz": read_npz}


class PredictionsMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a predictions file does not say about itself.

    ground_truth: path of the annotations; candidates are boxes before suppression; model and
    recipe: names; score_threshold: below it nothing was written; postprocess: keywords of
    `suppress` in the recipe. The last three come from the ground truth and are filled in by
    `write_predictions`.
    """

    kind: Literal["detections", "candidates"]
    ground_truth: str | None = None
    model: str | None = None
    recipe: str | None = None
    score_threshold: float | None = None
    postprocess: dict[str, Any] | None = None
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    image_ids: tuple[int, ...] = ()


def meta_path(path: str | Path) -> Path:
    """Where the description of a predictions file lies: a.json, a.npz, a.json.gz -> a.meta.json."""
    return _without_gz(Path(path)).with_suffix(".meta.json")


def _without_gz(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".gz" else path


def write_predictions(
    path: str | Path, detections: Detections, ground_truth: GroundTruth, meta: PredictionsMeta
) -> None:
    """Write predictions and their .meta.json, each whole or not at all.

    The suffix, .json or .npz, selects the format. Values come back exactly as they are. Raises
    UsageError on another suffix, DataError when the folder is not writable, ValueError on values
    that are not finite.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise UsageError(f"{path}: predictions are written as .json or .npz, not {path.suffix!r}")
    columns = Columns(
        ground_truth.image_ids[detections.image_index],
        np.asarray(ground_truth.category_ids, np.int64)[detections.labels],
        detections.boxes_xywh,
        detections.scores,
        detections.extra,
    )
    unknown = set(columns.extra) - set(EXTRA_COLUMNS)
    if unknown:
        raise ValueError(f"extra columns {sorted(unknown)}; known are {list(EXTRA_COLUMNS)}")
    for name, values in (("bbox", columns.bbox), ("score", columns.score), *columns.extra.items()):
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: column {name!r} holds values that are not finite")
    meta = msgspec.structs.replace(
        meta,
        class_names=ground_truth.class_names,
        category_ids=ground_truth.category_ids,
        image_ids=tuple(ground_truth.image_ids.tolist()),
    )
    write_atomically(path, lambda file: _WRITERS[path.suffix](file, columns))
    text = msgspec.json.format(msgspec.json.encode(meta), indent=1)
    write_atomically(meta_path(path), text)


def read_predictions(path: str | Path, ground_truth: GroundTruth) -> Detections:
    """Read predictions and line them up with the images of a ground truth.

    Entries may come in any order; those of one image keep theirs. Raises DataError, naming file
    and entry (counted from 0), on anything that is not a list of well-formed results with finite
    numbers, non-negative sizes, and ids that the ground truth knows. An empty list is fine.
    """
    return align(path, read_columns(path), ground_truth)


def read_columns(path: str | Path) -> Columns:
    """Read predictions as they stand in the file; errors as for `read_predictions`, but for ids."""
    path = Path(path)
    suffix = _without_gz(path).suffix
    if suffix not in _READERS:
        raise DataError(
            f"{path}: predictions are read from .json or .npz (also .gz), not {suffix!r}"
        )
    columns = _READERS[suffix](path)
    _check_values(path, columns)
    return columns


def align(path: str | Path, columns: Columns, ground_truth: GroundTruth) -> Detections:
    """Columns of the file at `path`, in the order of the ground truth's images. DataError on an
    id that the ground truth does not know."""
    path = Path(path)
    image = _positions(path, "image_id", columns.image_id, ground_truth.image_ids.tolist())
    label = _positions(path, "category_id", columns.category_id, ground_truth.category_ids)
    counts = np.bincount(image, minlength=ground_truth.num_images)
    in_order = bool((np.diff(image) >= 0).all())  # as we write them: nothing to move
    order = slice(None) if in_order else np.argsort(image, kind="stable")
    return Detections(
        offsets=offsets_of(counts),
        boxes_xywh=columns.bbox[order],
        scores=columns.score[order],
        labels=label[order],
        extra={name: column[order] for name, column in columns.extra.items()},
    )


def read_meta(path: str | Path) -> PredictionsMeta | None:
    """The description next to a predictions file, or None where there is none.

    Raises DataError on a file that is not such a description.
    """
    path = meta_path(path)
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_bytes(path), type=PredictionsMeta)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not a description of predictions: {error}") from None


def check_not_thresholded(
    path: str | Path, meta: PredictionsMeta | None, limit: float = SCORE_LIMIT
) -> None:
    """Raise DataError if predictions were cut at a score above `limit`, which falsifies AP."""
    if meta is not None and meta.score_threshold is not None and meta.score_threshold > limit:
        raise DataError(
            f"{path}: predictions were thresholded at score {meta.score_threshold:g}: what is "
            "computed from them is not AP, since the low-score end of the precision-recall curve "
            f"is missing; write them with a score threshold of at most {limit:g}, or add "
            "--allow-threshold"
        )


def _check_values(path: Path, columns: Columns) -> None:
    numbers = {"bbox": columns.bbox, "score": columns.score, **columns.extra}
    for name, values in numbers.items():
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        _refuse(path, ~finite, name, values, "is not finite")
    negative = np.any(columns.bbox[:, 2:] < 0, axis=1)
    _refuse(path, negative, "bbox", columns.bbox, "has a negative size")


def _positions(path: Path, key: str, ids: IntArray, known: Sequence[int]) -> IntArray:
    """Position in `known` of each id."""
    order = np.argsort(np.asarray(known, np.int64), kind="stable")
    ascending = np.asarray(known, np.int64)[order]
    slot = np.searchsorted(ascending, ids)
    found = slot < len(ascending)
    found[found] = ascending[slot[found]] == ids[found]
    _refuse(path, ~found, key, ids, "is not in the ground truth (another split or data set?)")
    return np.asarray(order[slot])


def _refuse(path: Path, wrong: BoolArray, key: str, values: NDArray[Any], what: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        more = f"; so in {len(rows)} of {len(wrong)} entries" if len(rows) > 1 else ""
        raise DataError(f"{path}: entry {rows[0]}: {key} {values[rows[0]].tolist()} {what}{more}")
