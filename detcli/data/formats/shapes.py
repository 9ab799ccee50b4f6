"""`shapes`: a generated detection data set, written to disk as ordinary COCO data.

Every image is a function of (seed, split, number) and the parameters, so the same recipe means
the same pictures everywhere, and a larger data set begins with the images of a smaller one.
Classes: circle, square, triangle, cross, in any colour, size, rotation and stretch, in front of
a textured background, partly hiding each other or cut by the edge. Other shapes (distractors)
are drawn but not labelled. Boxes enclose the whole shape, hidden parts included.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detcli.data.formats.shapes_draw import CLASSES, Scene, draw_scene
from detcli.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWING_VERSION = 2
"""Part of the folder's name; raise it when the same parameters give other pictures."""

JPEG_QUALITY = 95
SIDE_LIMITS = (32, 2048)


class Variant(NamedTuple):
    """How hard a variant is. Ranges include both ends; sides are fractions of the shorter side.

    objects, distractors: how many per image; side: diameter of the circle around a shape;
    min_visible: share of a shape that later shapes must leave uncovered; empty: share of images
    without objects; lookalikes: distractors that resemble the classes; class_hues: each class has
    its own part of the colour circle, so that a small network learns it within minutes.
    """

    objects: tuple[int, int]
    side: tuple[float, float]
    distractors: tuple[int, int]
    min_visible: float
    empty: float
    lookalikes: bool = False
    class_hues: bool = False


VARIANTS = {
    "plain": Variant((3, 7), (0.18, 0.42), (0, 2), 0.7, 0.06, class_hues=True),
    "small": Variant((3, 10), (0.06, 0.15), (1, 4), 0.7, 0.06),
    "crowded": Variant((10, 22), (0.14, 0.32), (0, 3), 0.35, 0.02),
    "hard_negatives": Variant((1, 3), (0.22, 0.5), (2, 5), 0.7, 0.3, lookalikes=True),
    "background": Variant((0, 0), (0.22, 0.5), (0, 0), 0.7, 1.0),
}


def write_shapes(
    root: str, *, variant: str, num_train: int, num_val: int, size: Sequence[int], seed: int
) -> str:
    """Make sure the data set is on disk, and return its folder.

    The folder is <root>/<variant>-<digest of all parameters>, holding images/{train,val},
    annotations/{train,val}.json and parameters.json. It appears all at once, so an interrupted
    run leaves nothing half written, and several processes may ask for it at the same time.
    size: (height, width) in pixels. Raises DataError.
    """
    if variant not in VARIANTS:
        raise DataError(f"data.shapes.variant: expected {', '.join(VARIANTS)}, got {variant!r}")
    low, high = SIDE_LIMITS
    if len(size) != 2 or not all(low <= side <= high for side in size):
        raise DataError(
            f"data.shapes.size: expected [height, width] in {low}..{high}, got {list(size)}"
        )
    if num_train < 1 or num_val < 1:
        raise DataError(f"data.shapes: expected at least one image, got {num_train} and {num_val}")
    parameters = {
        "variant": variant,
        "num_train": num_train,
        "num_val": num_val,
        "size": list(size),
        "seed": seed,
        "drawing_version": DRAWING_VERSION,
    }
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(root) / f"{variant}-{digest}"
    if not folder.is_dir():
        try:
            _write_all_at_once(folder, parameters)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error.strerror}") from error
    return str(folder)


def _write_all_at_once(folder: Path, parameters: dict[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for split, name in enumerate(("train", "val")):
            _write_split(unfinished, name, split, parameters)
        (unfinished / "parameters.json").write_text(json.dumps(parameters, indent=2) + "\n")
        unfinished.chmod(0o755)
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_split(folder: Path, name: str, split: int, parameters: dict[str, Any]) -> None:
    import cv2

    image_folder = folder / "images" / name
    image_folder.mkdir(parents=True)
    height, width = parameters["size"]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, parameters[f"num_{name}"] + 1):
        rng = np.random.default_rng([parameters["seed"], split, number])
        scene = make_scene(parameters["variant"], (height, width), rng)
        file_name = f"{number:06d}.jpg"
        bgr: NDArray[np.uint8] = np.ascontiguousarray(scene.pixels[:, :, ::-1])
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (image_folder / file_name).write_bytes(encoded.tobytes())
        images.append({"id": number, "file_name": file_name, "height": height, "width": width})
        for label, box, area in zip(scene.labels, scene.boxes_xywh, scene.areas, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [round(value, 2) for value in box],
                    "area": area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))


def make_scene(variant: str, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Draw one image of a variant."""
    rules = VARIANTS[variant]
    empty = rng.random() < rules.empty
    num_objects = 0 if empty else int(rng.integers(rules.objects[0], rules.objects[1] + 1))
    num_distractors = int(rng.integers(rules.distractors[0], rules.distractors[1] + 1))
    return draw_scene(
        size,
        rng,
        num_objects=num_objects,
        num_distractors=num_distractors,
        side=rules.side,
        min_visible=rules.min_visible,
        lookalikes=rules.lookalikes,
        class_hues=rules.class_hues,
    )
