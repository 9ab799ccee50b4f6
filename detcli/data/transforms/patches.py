"""Patches: pieces of images to be put into other images, and a folder that holds them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import torch
from torch import Tensor

from detcli.data.images import read_bytes, read_image
from detcli.data.transforms.blending import ROOM_PX, Core, pixels_of
from detcli.data.transforms.crop import crop
from detcli.data.transforms.paste import overlaps, pixels_around, with_margin
from detcli.data.transforms.sample import Sample
from detcli.errors import DataError
from detcli.text import one_line

INDEX = "patches.json"


@dataclass(frozen=True)
class Patch:
    """A piece of an image, cut out with its surroundings.

    sample: the pixels with the box of an object, or with none for a hard negative; core: what the
    patch is about, ROOM_PX or more from its border; name: its file's; source: the image it was cut
    out of; score: of a detection, None for an object.
    """

    sample: Sample
    core: Core
    name: str
    source: str
    score: float | None

    @property
    def is_object(self) -> bool:
        """Whether it brings a labelled box with it."""
        return len(self.sample.boxes) > 0


@dataclass(frozen=True)
class Patches:
    """What can be put into images: detections that were wrong, and objects."""

    negatives: tuple[Patch, ...]
    objects: tuple[Patch, ...]
    class_names: tuple[str, ...]


class _Entry(msgspec.Struct):
    file: str
    core: Core
    source: str
    box: tuple[float, float, float, float] | None = None
    category: str | None = None
    score: float | None = None


class _Index(msgspec.Struct):
    class_names: list[str]
    patches: list[_Entry]


def cut_patch(
    source: Sample, box: Tensor, label: int | None, *, name: str, path: str, score: float | None
) -> Patch:
    """Cut out a box (4,) xyxy with a margin, as an object of class `label` or as a hard negative.

    Surroundings that hold an annotated box (other than the object itself) stay behind: an
    unlabelled patch must not show a part of an object. The border is repeated where they, or the
    end of the image, leave less than ROOM_PX.
    """
    whole = pixels_around(with_margin(box), source.size)
    others = source.boxes[(source.boxes != box).any(dim=1)]
    window = whole
    if overlaps(others, torch.tensor(whole)).any():
        window = pixels_around(box, source.size)
    left, top, right, bottom = window
    bare = source.keep(torch.zeros(0, dtype=torch.long))
    if label is not None:
        bare = source.changed(
            boxes=box[None], labels=torch.tensor([label]), ignore=torch.tensor([False])
        )
    cut = crop(bare, top, left, bottom - top, right - left)
    x1, y1, x2, y2 = pixels_around(box, source.size)
    return with_room(cut, (x1 - left, y1 - top, x2 - left, y2 - top), name, path, score)


def is_whole(box: Tensor, size: tuple[int, int]) -> bool:
    """Whether a box (4,) ends a pixel or more before the border of an image of `size`.

    What the border cuts would look cut in the middle of another image, and has nothing around it
    on that side that could meet the other image.
    """
    height, width = size
    x1, y1, x2, y2 = box.tolist()
    return bool(min(x1, y1, width - x2, height - y2) >= 1)


def with_room(
    cut: Sample, core: Core, name: str = "", path: str = "", score: float | None = None
) -> Patch:
    """The patch whose core has at least ROOM_PX around it; missing pixels repeat the border."""
    height, width = cut.size
    x1, y1, x2, y2 = core
    before = [max(0, ROOM_PX - room) for room in (y1, x1)]
    behind = [max(0, ROOM_PX - room) for room in (height - y2, width - x2)]
    pixels = cv2.copyMakeBorder(
        pixels_of(cut.image), before[0], behind[0], before[1], behind[1], cv2.BORDER_REPLICATE
    )
    dy, dx = before
    sample = cut.shifted(dx, dy).changed(image=torch.from_numpy(pixels).permute(2, 0, 1))
    return Patch(sample, (x1 + dx, y1 + dy, x2 + dx, y2 + dy), name, path, score)


def write_patches(folder: Path, patches: Patches) -> None:
    """Write each patch as a PNG, and patches.json that says what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for patch in (*patches.negatives, *patches.objects):
        cv2.imwrite(str(folder / patch.name), pixels_of(patch.sample.image)[..., ::-1])
        entry = _Entry(patch.name, patch.core, patch.source, score=patch.score)
        if patch.is_object:
            entry.box = tuple(patch.sample.boxes[0].tolist())
            entry.category = patches.class_names[int(patch.sample.labels[0])]
        entries.append(entry)
    index = _Index(list(patches.class_names), entries)
    (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=1))


def read_patches(folder: str) -> Patches:
    """The patches of a folder that `write_patches` wrote. Raises DataError."""
    path = os.path.join(folder, INDEX)
    try:
        index = msgspec.json.decode(read_bytes(path), type=_Index)
    except msgspec.MsgspecError as error:
        raise DataError(f"{one_line(path)}: {one_line(str(error))}") from error
    read = [_read(folder, entry, index.class_names) for entry in index.patches]
    return Patches(
        tuple(patch for patch in read if not patch.is_object),
        tuple(patch for patch in read if patch.is_object),
        tuple(index.class_names),
    )


def _read(folder: str, entry: _Entry, class_names: Sequence[str]) -> Patch:
    pixels = read_image(os.path.join(folder, entry.file))
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = entry.core
    room = min(x1, y1, width - x2, height - y2)
    if room < ROOM_PX or x1 >= x2 or y1 >= y2:
        raise DataError(
            f"{folder}: {entry.file}: expected a core at least {ROOM_PX} pixels inside "
            f"{width}x{height}, got {list(entry.core)}"
        )
    if (entry.box is None) != (entry.category is None):
        raise DataError(f"{folder}: {entry.file}: expected both box and category, or neither")
    if entry.category not in (None, *class_names):
        raise DataError(f"{folder}: {entry.file}: category {entry.category!r} is not a class name")
    labels = [] if entry.category is None else [class_names.index(entry.category)]
    sample = Sample(
        image=torch.from_numpy(pixels).permute(2, 0, 1),
        boxes=torch.tensor(entry.box or [], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        ignore=torch.zeros(len(labels), dtype=torch.bool),
    )
    return Patch(sample, entry.core, entry.file, entry.source, entry.score)
