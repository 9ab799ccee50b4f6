"""Detect objects in image files, draw them, and write them down."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path

import cv2
import numpy as np
import torch

from detcli.data.images import read_image
from detcli.data.records import Records
from detcli.errors import DataError
from detcli.types import Detections

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def find_images(patterns: Sequence[str]) -> list[Path]:
    """Files, folders (searched below) and globs, in order, each image once.

    Raises DataError naming the argument that matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(
                entry for entry in path.rglob("*") if entry.suffix.lower() in SUFFIXES
            )
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(
                entry for entry in map(Path, glob(pattern, recursive=True)) if entry.is_file()
            )
        if not matches:
            raise DataError(f"{pattern}: no image file, no folder with images, no glob that matches")
        found.update(dict.fromkeys(matches))
    return list(found)


def draw(image: np.ndarray, detections: Detections, index: int, names: Sequence[str], confidence: float) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB with the boxes of image `index` scored at least
    `confidence`, labelled with class and score."""
    from matplotlib import get_data_path
    from torchvision.utils import draw_bounding_boxes

    rows = np.arange(detections.offsets[index], detections.offsets[index + 1])
    rows = rows[detections.scores[rows] >= confidence][::-1]  # the best on top
    if len(rows) == 0:
        return image
    boxes = detections.boxes_xywh[rows].copy()
    boxes[:, 2:] += boxes[:, :2]
    labels = detections.labels[rows]
    drawn = draw_bounding_boxes(
        torch.from_numpy(image).permute(2, 0, 1),
        torch.from_numpy(boxes),
        labels=[
            f"{names[label]} {score:.2f}"
            for label, score in zip(labels, detections.scores[rows], strict=True)
        ],
        colors=[class_color(int(label)) for label in labels],
        width=max(1, round(max(image.shape) / 400)),
        font=str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"),
        font_size=max(10, round(max(image.shape) / 60)),
    )
    return np.ascontiguousarray(drawn.permute(1, 2, 0).numpy())


def class_color(label: int) -> tuple[int, int, int]:
    """A colour per class, neighbours far apart on the colour circle (golden angle)."""
    hue = round(label * 0.618034 * 180) % 180
    pixel = cv2.cvtColor(np.uint8([[[hue, 220, 235]]]), cv2.COLOR_HSV2RGB)
    red, green, blue = (int(value) for value in pixel[0, 0])
    return red, green, blue


def write_drawings(
    records: Records, detections: Detections, folder: Path, confidence: float
) -> list[Path]:
    """Draw every image of `records` into `folder` as <number>_<name>.jpg; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index in range(len(records)):
        source = records.path(index)
        image = draw(
            read_image(source), detections, index, records.class_names, confidence
        )
        path = folder / f"{index + 1:05d}_{source.stem}.jpg"
        cv2.imwrite(str(path), image[..., ::-1])
        written.append(path)
    return written
