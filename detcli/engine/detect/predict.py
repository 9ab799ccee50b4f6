"""Detect objects in image files, draw them, and write them down."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import cv2

from detcli.data.formats.plain_images import read_images
from detcli.data.images import SUFFIXES, read_image
from detcli.engine.detect.evaluate import detect
from detcli.engine.detect.load import Trained
from detcli.engine.pictures.draw import draw
from detcli.engine.run.build import build_eval_loader
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.run.methods import postprocess
from detcli.engine.run.predictions import prediction_meta
from detcli.errors import DataError
from detcli.predictions import write_predictions


def find_images(patterns: Sequence[str]) -> list[Path]:
    """Files, folders (searched below) and globs, in order, each image once.

    Raises DataError naming the argument that matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in SUFFIXES)
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(
                entry for entry in map(Path, glob(pattern, recursive=True)) if entry.is_file()
            )
        if not matches:
            raise DataError(
                f"{pattern}: no image file, no folder with images, no glob that matches"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def predict(
    trained: Trained,
    files: Sequence[Path],
    folder: Path,
    confidence: float,
    ranks: Ranks,
    log: RunLog,
) -> list[dict[str, Any]]:
    """Detect in `files`; write predictions.json and one picture per image into `folder`.

    One entry per image: its path, the picture's path, and how many boxes were drawn.
    """
    recipe = trained.recipe
    records = read_images([str(path) for path in files], trained.class_names, trained.category_ids)
    loader = build_eval_loader(recipe, records, ranks)
    candidates = detect(trained.detector, recipe, records, loader, ranks, log)
    assert candidates is not None, "predict runs in one process"
    detections = postprocess(candidates, recipe.postprocess)
    write_predictions(
        folder / "predictions.json",
        detections,
        records.ground_truth(),
        prediction_meta(recipe, "detections"),
    )
    found = []
    for index, source in enumerate(log.track(files, "draw", len(files))):
        pixels = read_image(str(source))
        picture = folder / f"{index + 1:05d}_{source.stem}.jpg"
        drawn, count = draw(pixels, detections, index, records.class_names, confidence)
        cv2.imwrite(str(picture), drawn[..., ::-1])
        found.append({"image": str(source), "picture": str(picture), "boxes": count})
    return found
