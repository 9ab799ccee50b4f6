"""Detect objects in image files, draw them, and write them down."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from detcli.data.files import read_images
from detcli.data.images import SUFFIXES, read_image
from detcli.engine.distributed import Ranks
from detcli.engine.evaluate import detect
from detcli.engine.log import RunLog
from detcli.engine.measure import Trained
from detcli.engine.predictions import postprocess_options, prediction_meta
from detcli.engine.setup import build_eval_loader
from detcli.errors import DataError
from detcli.evaluation import write_predictions
from detcli.postprocess import suppress
from detcli.types import Detections

if TYPE_CHECKING:
    from detcli.data.images import Pixels


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


def draw(
    image: Pixels, detections: Detections, index: int, names: Sequence[str], confidence: float
) -> tuple[Pixels, int]:
    """The image (H, W, 3) uint8 RGB with the boxes of image `index` scored at least
    `confidence`, labelled with class and score; and how many these are."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    rows = np.arange(detections.offsets[index], detections.offsets[index + 1])
    rows = rows[detections.scores[rows] >= confidence][::-1]  # the best on top
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    side = max(image.shape)
    font = ImageFont.truetype(
        str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), max(10, round(side / 60))
    )
    for row in rows:
        label = int(detections.labels[row])
        left, top, width, height = detections.boxes_xywh[row]
        color = class_color(label)
        corners = (left, top, left + width, top + height)
        pen.rectangle(corners, outline=color, width=max(1, round(side / 400)))
        text = f"{names[label]} {detections.scores[row]:.2f}"
        # Above the box, so that it does not hide a small object, unless the image ends there.
        anchor = "lb" if top > font.size else "lt"
        pen.rectangle(pen.textbbox((left, top), text, font=font, anchor=anchor), fill=color)
        pen.text((left, top), text, font=font, fill="black", anchor=anchor)
    return np.asarray(picture), len(rows)


def class_color(label: int) -> tuple[int, int, int]:
    """A colour per class, neighbours far apart on the colour circle (golden angle)."""
    hue = round(label * 0.618034 * 180) % 180
    pixel = cv2.cvtColor(np.array([[[hue, 220, 235]]], np.uint8), cv2.COLOR_HSV2RGB)
    red, green, blue = (int(value) for value in pixel[0, 0])
    return red, green, blue


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
    detections = suppress(candidates, **postprocess_options(recipe))
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
