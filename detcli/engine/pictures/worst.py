"""The worst mistakes of a detector as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detcli.data.images import read_image
from detcli.engine.pictures.draw import class_color
from detcli.errors import UsageError
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
    sheet = _sheet(strips, count)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    return True


def _sheet(strips: list[tuple[str, list[Image.Image]]], columns: int) -> Image.Image:
    heights = [max(cell.height for cell in cells) for _, cells in strips]
    width = columns * (CELL_PX + _GAP_PX) + _GAP_PX
    height = sum(heights) + len(strips) * (_TITLE_PX + 2 * _GAP_PX)
    sheet = Image.new("RGB", (width, height), _WHITE)
    pen, top = ImageDraw.Draw(sheet), 0
    for (title, cells), tallest in zip(strips, heights, strict=True):
        pen.text((_GAP_PX, top + _GAP_PX), title, "black", _font(12))
        top += _TITLE_PX + _GAP_PX
        for index, cell in enumerate(cells):
            sheet.paste(cell, (_GAP_PX + index * (CELL_PX + _GAP_PX), top))
        top += tallest + _GAP_PX
    return sheet


def _cell(records: Records, truth: GroundTruth, detections: Detections, row: int) -> Image.Image:
    """The image of a detection, with its box and the objects, as large as a cell allows."""
    index = int(np.searchsorted(detections.offsets, row, side="right")) - 1
    image = read_image(records.path(index))
    factor = CELL_PX / max(image.shape[:2])
    sides = [max(1, round(side * factor)) for side in (image.shape[1], image.shape[0])]
    picture = Image.fromarray(image).resize((sides[0], sides[1]))
    pen = ImageDraw.Draw(picture)
    for box in truth.boxes_xywh[truth.offsets[index] : truth.offsets[index + 1]]:
        pen.rectangle(_corners(box, factor), outline=_WHITE)
    label = int(detections.labels[row])
    color, corners = class_color(label), _corners(detections.boxes_xywh[row], factor)
    pen.rectangle(corners, outline=color, width=2)
    text = f"{truth.class_names[label]} {detections.scores[row]:.2f}"
    corner = corners[0], max(0.0, corners[1] - 12)
    pen.rectangle(pen.textbbox(corner, text, _font(11)), fill=color)
    pen.text(corner, text, "black", _font(11))
    return picture


def _corners(box: np.ndarray, factor: float) -> tuple[float, float, float, float]:
    left, top, width, height = (float(value) * factor for value in box)
    return left, top, left + width, top + height


def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
