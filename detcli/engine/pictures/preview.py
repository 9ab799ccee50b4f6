"""What the network would see: a contact sheet of augmented images with their boxes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from detcli.data.dataset import DetectionDataset
from detcli.data.plan import training_plan
from detcli.data.records import Records
from detcli.data.transforms import Sample, build_transforms, check_augmentations
from detcli.engine.pictures.draw import class_color, draw_box, font_of, in_cell, save_picture
from detcli.recipe import Recipe

if TYPE_CHECKING:
    from detcli.data.images import Pixels

CELL_PX = 320
_GAP_PX = 6
_CAPTION_PX = 32
_IGNORED = (150, 150, 150)
_PAPER = (255, 255, 255)


@dataclass(frozen=True)
class Seen:
    """One image as the network would see it, and the file it came from."""

    path: str
    sample: Sample

    def as_dict(self) -> dict[str, Any]:
        """What `data preview --json` says of it."""
        height, width = self.sample.size
        ignored = int(self.sample.ignore.sum())
        return {
            "image": self.path,
            "height": height,
            "width": width,
            "boxes": len(self.sample.boxes) - ignored,
            "ignored": ignored,
            "fired": list(self.sample.fired),
        }


@dataclass(frozen=True)
class Preview:
    """Images in the order in which training would see them; fired: how often each augmentation
    that is switched on acted on them."""

    seen: tuple[Seen, ...]
    class_names: tuple[str, ...]
    fired: dict[str, int]


def preview(recipe: Recipe, records: Records, *, train: bool, num_images: int) -> Preview:
    """The first images of training by this recipe, or, without `train`, those of evaluation.

    Where num_images is more than an epoch has, the next epochs follow. Raises UsageError for an
    augmentation that cannot act, DataError for an image that cannot be read.
    """
    data, seed = recipe.data, recipe.train.seed
    augment = data.augment.model_dump()
    if train:
        check_augmentations(records, augment)
    transforms = build_transforms(resize=data.resize.model_dump(), augment=augment, train=train)
    dataset = DetectionDataset(records, transforms, seed)
    seen = []
    for epoch, index in _items(dataset, seed, train=train, num_images=num_images):
        path = records.path(dataset.position(index))
        seen.append(Seen(path, dataset[epoch, index]))
    counts = Counter(name for each in seen for name in each.sample.fired)
    fired = {name: counts[name] for name in dataset.augmentations}
    return Preview(tuple(seen), records.class_names, fired)


def _items(
    dataset: DetectionDataset, seed: int, *, train: bool, num_images: int
) -> list[tuple[int, int]]:
    if not train:
        return [(0, index) for index in range(min(num_images, len(dataset)))]
    count = len(dataset) + len(dataset.extra)
    items: list[tuple[int, int]] = []
    for epoch in range(math.ceil(num_images / count)):
        batches = training_plan(None, count, seed=seed, epoch=epoch, batch=1, world_size=1)
        items += [(epoch, int(batch[0])) for batch in batches]
    return items[:num_images]


def contact_sheet(shown: Preview, columns: int | None = None) -> Pixels:
    """(H, W, 3) uint8 RGB: the images in rows (of as many as there are rows, if `columns` is not
    given), objects in the colours of their classes, ignored regions in grey, and below each what
    acted on it."""
    columns = columns or math.ceil(math.sqrt(len(shown.seen)))
    rows = math.ceil(len(shown.seen) / columns)
    pictures = [_picture(each.sample, shown.class_names) for each in shown.seen]
    cell_height = max(picture.height for picture in pictures)
    step_x, step_y = CELL_PX + _GAP_PX, cell_height + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * step_x + _GAP_PX, rows * step_y + _GAP_PX), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (each, picture) in enumerate(zip(shown.seen, pictures, strict=True)):
        left, top = _GAP_PX + number % columns * step_x, _GAP_PX + number // columns * step_y
        sheet.paste(picture, (left, top))
        acted = ", ".join(each.sample.fired) or "no augmentation"
        lines = (_shortened(Path(each.path).name), _shortened(acted))
        pen.multiline_text(
            (left, top + cell_height + 2), "\n".join(lines), "black", font_of(10), spacing=2
        )
    return np.asarray(sheet)


def write_sheet(shown: Preview, path: Path, columns: int | None = None) -> None:
    """The contact sheet as a PNG file. Raises UsageError where it cannot be written."""
    save_picture(Image.fromarray(contact_sheet(shown, columns)), path, f"--out {path}")


def _picture(sample: Sample, names: Sequence[str]) -> Image.Image:
    """The image with its boxes, as large as a cell allows."""
    picture, factor = in_cell(sample.image.permute(1, 2, 0).numpy(), CELL_PX)
    pen, font = ImageDraw.Draw(picture), font_of(10)
    columns = (sample.boxes * factor, sample.labels, sample.ignore)
    for box, label, ignored in zip(*(column.tolist() for column in columns), strict=True):
        color = _IGNORED if ignored else class_color(label)
        draw_box(pen, box, "ignored" if ignored else names[label], color, font)
    return picture


def _shortened(text: str) -> str:
    """What fits below an image."""
    fits = CELL_PX // 6
    return text if len(text) <= fits else f"{text[: fits - 3]}..."
