"""Predictions files with the ground truth that belongs to them. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detcli.data.formats.coco import read_coco
from detcli.errors import DataError, UsageError
from detcli.predictions import PredictionsMeta, check_not_thresholded, read_meta
from detcli.predictions.files import SCORE_LIMIT, align, read_columns
from detcli.predictions.formats import Columns
from detcli.types import Detections, GroundTruth


@dataclass(frozen=True)
class PredictionFiles:
    """One or more predictions files of the same images.

    ground_truth: has no objects, only images and classes, where `annotations` is None because
    nobody named any; tables: one per file; metas: what stands beside each file, if anything.
    """

    ground_truth: GroundTruth
    annotations: Path | None
    tables: tuple[Detections, ...]
    metas: tuple[PredictionsMeta | None, ...]

    @property
    def postprocess(self) -> dict[str, Any]:
        """The recipe's own suppression, where the files are candidates that all name the same."""
        found = [
            meta.postprocess
            for meta in self.metas
            if meta is not None and meta.kind == "candidates"
        ]
        same = len(found) == len(self.metas) and all(options == found[0] for options in found)
        return dict(found[0] or {}) if same else {}


def load_prediction_files(
    paths: Sequence[Path], gt: Path | None, *, allow_threshold: bool, need_truth: bool
) -> PredictionFiles:
    """Read predictions and the annotations named by `gt` or else by the files' .meta.json.

    Raises DataError on unusable files, and on predictions that were cut at a score, unless that
    is allowed; UsageError where annotations are needed and nobody names any, or where the files
    name different ones.
    """
    metas = tuple(read_meta(path) for path in paths)
    annotations = gt if gt is not None else _named_annotations(paths, metas)
    if annotations is None and need_truth:
        raise UsageError(
            f"--predictions {paths[0]}: name the annotations with --gt FILE (COCO JSON); "
            "no .meta.json next to the predictions names them"
        )
    if annotations is not None and not allow_threshold:
        for path, meta in zip(paths, metas, strict=True):
            check_not_thresholded(path, meta)
    columns = [read_columns(path) for path in paths]
    truth = (
        read_coco("", {"annotations": str(annotations)}).ground_truth()
        if annotations is not None
        else _without_objects(metas, columns)
    )
    tables = tuple(align(path, column, truth) for path, column in zip(paths, columns, strict=True))
    return PredictionFiles(truth, annotations, tables, metas)


def doubt_about_scores(files: PredictionFiles) -> str | None:
    """A warning where nobody says at which score predictions were cut and it looks as if they
    were: no file is refused on a guess."""
    lowest = min((table.scores.min(initial=np.inf) for table in files.tables), default=np.inf)
    told = all(meta is not None and meta.score_threshold is not None for meta in files.metas)
    if told or not SCORE_LIMIT < lowest < np.inf:
        return None
    return (
        f"the lowest score is {lowest:g}: if these predictions were thresholded there, this is "
        "not AP, since the low-score end of the precision-recall curve is missing"
    )


def _named_annotations(
    paths: Sequence[Path], metas: Sequence[PredictionsMeta | None]
) -> Path | None:
    """The annotations that the descriptions name; a folder that was moved is found again."""
    named: dict[Path, Path] = {}
    for path, meta in zip(paths, metas, strict=True):
        if meta is None or meta.ground_truth is None:
            continue
        place = Path(meta.ground_truth)
        beside = path.parent / place.name
        found = place if place.exists() or not beside.exists() else beside
        named.setdefault(found, path)
    if len(named) > 1 and len({place.read_bytes() for place in named if place.exists()}) > 1:
        shown = ", ".join(f"{path} -> {place}" for place, path in named.items())
        raise UsageError(f"the predictions belong to different annotations: {shown}; give --gt")
    return next(iter(named), None)


def _without_objects(
    metas: Sequence[PredictionsMeta | None], columns: Sequence[Columns]
) -> GroundTruth:
    """Images and classes as far as predictions themselves know them."""
    known = [meta for meta in metas if meta is not None and meta.image_ids]
    if known and len(known) == len(metas):
        image_ids = np.unique(np.concatenate([np.array(meta.image_ids) for meta in known]))
        names = dict(
            pair for meta in known for pair in zip(meta.category_ids, meta.class_names, strict=True)
        )
    else:
        image_ids = np.unique(np.concatenate([column.image_id for column in columns]))
        ids = np.unique(np.concatenate([column.category_id for column in columns]))
        names = {int(category): f"category {category}" for category in ids}
    if not len(image_ids):
        raise DataError("the predictions are empty and name no images; give --gt FILE (COCO JSON)")
    category_ids = tuple(sorted(names))
    return GroundTruth(
        image_ids=image_ids.astype(np.int64),
        offsets=np.zeros(len(image_ids) + 1, np.int64),
        boxes_xywh=np.zeros((0, 4)),
        labels=np.zeros(0, np.int64),
        area=np.zeros(0),
        crowd=np.zeros(0, np.bool_),
        difficult=np.zeros(0, np.bool_),
        class_names=tuple(names[category] for category in category_ids),
        category_ids=category_ids,
    )
