"""The worst mistakes of a detector as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from detcli.data.images import read_image
from detcli.engine.pictures.draw import (
    class_color,
    corners_of,
    draw_box,
    font_of,
    in_cell,
    save_picture,
)
from detcli.evaluation import ERROR_KINDS, match, wrong_detections

if TYPE_CHECKING:
    from detcli.data.records import Records
    from detcli.types import Detections, GroundTruth

CELL_PX = 240
_GAP_PX = 4
_TITLE_PX = 18
_WHITE = (255, 255, 255)
MEANING = {
    "classification": "classification error: well localised, wrong class",
    "localisation": "localisation error: right class, IoU below 0.5",
    "both": "classification and localisation error",
    "duplicate": "duplicate detection of an object",
    "background": "background: no object there",
}


def write_worst(
    path: Path, records: Records, truth: GroundTruth, detections: Detections, count: int
) -> bool:
    """A PNG file: for each kind of wrong detection a row with the `count` of the highest scores,
    annotated objects in white.

    Kinds are those of `error_report`; kinds without a detection have no row. Returns whether
    there was anything to draw. Raises UsageError where the file cannot be written, DataError for
    an image that cannot be read.
    """
    rows, kinds = wrong_detections(truth, detections, match(truth, detections))
    strips = []
    for number, kind in enumerate(ERROR_KINDS[:-1]):
        of_kind = rows[kinds == number]
        if len(of_kind):
            cells = [_cell(records, truth, detections, int(row)) for row in of_kind[:count]]
            strips.append((f"{MEANING[kind]} ({len(of_kind)} in all)", cells))
    if not strips:
        return False
    save_picture(_sheet(strips, count), path, str(path))
    return True


def _sheet(strips: list[tuple[str, list[Image.Image]]], columns: int) -> Image.Image:
    heights = [max(cell.height for cell in cells) for _, cells in strips]
    width = columns * (CELL_PX + _GAP_PX) + _GAP_PX
    height = sum(heights) + len(strips) * (_TITLE_PX + 2 * _GAP_PX)
    sheet = Image.new("RGB", (width, height), _WHITE)
    pen, top = ImageDraw.Draw(sheet), 0
    for (title, cells), tallest in zip(strips, heights, strict=True):
        pen.text((_GAP_PX, top + _GAP_PX), title, "black", font_of(12))
        top += _TITLE_PX + _GAP_PX
        for index, cell in enumerate(cells):
            sheet.paste(cell, (_GAP_PX + index * (CELL_PX + _GAP_PX), top))
        top += tallest + _GAP_PX
    return sheet


def _cell(records: Records, truth: GroundTruth, detections: Detections, row: int) -> Image.Image:
    """The image of a detection, with its box and the objects, as large as a cell allows."""
    index = int(np.searchsorted(detections.offsets, row, side="right")) - 1
    picture, factor = in_cell(read_image(records.path(index)), CELL_PX)
    pen = ImageDraw.Draw(picture)
    for box in truth.boxes_xywh[truth.offsets[index] : truth.offsets[index + 1]]:
        pen.rectangle(corners_of(box, factor), outline=_WHITE)
    label = int(detections.labels[row])
    corners = corners_of(detections.boxes_xywh[row], factor)
    text = f"{truth.class_names[label]} {detections.scores[row]:.2f}"
    draw_box(pen, corners, text, class_color(label), font_of(11))
    return picture
