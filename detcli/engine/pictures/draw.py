"""Boxes drawn on images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detcli.errors import UsageError
from detcli.types import Detections

if TYPE_CHECKING:
    from detcli.data.images import Pixels

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2, pixels


def draw(
    image: Pixels, detections: Detections, index: int, names: Sequence[str], confidence: float
) -> tuple[Pixels, int]:
    """The image (H, W, 3) uint8 RGB with the boxes of image `index` scored at least
    `confidence`, labelled with class and score; and how many these are."""
    rows = np.arange(detections.offsets[index], detections.offsets[index + 1])
    rows = rows[detections.scores[rows] >= confidence][::-1]  # the best on top
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    side = max(image.shape)
    font, line = font_of(max(10, round(side / 60))), max(1, round(side / 400))
    for row in rows:
        label = int(detections.labels[row])
        text = f"{names[label]} {detections.scores[row]:.2f}"
        box = corners_of(detections.boxes_xywh[row])
        draw_box(pen, box, text, class_color(label), font, line)
    return np.asarray(picture), len(rows)


def corners_of(box_xywh: np.ndarray, factor: float = 1.0) -> Corners:
    """x1, y1, x2, y2 in an image enlarged by `factor`."""
    left, top, width, height = (float(value) * factor for value in box_xywh)
    return left, top, left + width, top + height


def draw_box(
    pen: ImageDraw.ImageDraw,
    box: Corners,
    text: str,
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    line: int = 2,
) -> None:
    """A box of lines `line` pixels wide, labelled above, so that the label does not hide a small
    object, or inside where the image ends there."""
    pen.rectangle(box, outline=color, width=line)
    corner, anchor = box[:2], "lb" if box[1] > font.size else "lt"
    pen.rectangle(pen.textbbox(corner, text, font=font, anchor=anchor), fill=color)
    pen.text(corner, text, font=font, fill="black", anchor=anchor)


def in_cell(image: Pixels, side: int) -> tuple[Image.Image, float]:
    """The image (H, W, 3) with a longer side of `side` pixels, and what it was enlarged by."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return Image.fromarray(image).resize(size), factor


def save_picture(picture: Image.Image, path: Path, asked: str) -> None:
    """Write the file, its folder included; asked: what named it, for the message.

    Raises UsageError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise UsageError(f"{asked}: cannot be written: {error.strerror}") from error


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """A font that is there wherever matplotlib is, `size` pixels high."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def class_color(label: int) -> tuple[int, int, int]:
    """A colour per class, neighbours far apart on the colour circle (golden angle)."""
    hue = round(label * 0.618034 * 180) % 180
    pixel = cv2.cvtColor(np.array([[[hue, 220, 235]]], np.uint8), cv2.COLOR_HSV2RGB)
    red, green, blue = (int(value) for value in pixel[0, 0])
    return red, green, blue
