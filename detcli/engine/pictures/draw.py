"""Boxes drawn on images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from detcli.types import Detections

if TYPE_CHECKING:
    from detcli.data.images import Pixels


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
