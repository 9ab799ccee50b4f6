"""Small data sets for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from detcli.data.formats.read import read_records
from detcli.data.records import Records


def loading(**changes: Any) -> Any:
    """The part of a data section that loaders read, in this process."""
    settings = {
        "workers": 0,
        "prefetch_factor": 2,
        "persistent_workers": False,
        "group_by_aspect": True,
        "pad_multiple": 32,
    }
    return SimpleNamespace(**settings | changes)


def write_image(path: Path, size: tuple[int, int] = (40, 60), seed: int = 0, **save: Any) -> None:
    """A smooth random picture of (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path, **save)


def coco_content(num_images: int = 3, size: tuple[int, int] = (40, 60)) -> dict[str, Any]:
    """A valid COCO file: ids with gaps, an unused category, the last image without objects."""
    images = [
        {"id": 10 * i, "file_name": f"{i}.jpg", "height": size[0], "width": size[1]}
        for i in range(num_images)
    ]
    annotations: list[dict[str, Any]] = [
        {"image_id": 10 * i, "category_id": 7, "bbox": [1 + i, 2, 20, 10]}
        for i in range(num_images - 1)
    ]
    annotations.append(
        {"image_id": 0, "category_id": 0, "bbox": [5, 5, 30, 30], "area": 500.0, "iscrowd": 1}
    )
    categories = [{"id": 7, "name": "cat"}, {"id": 0, "name": "dog"}, {"id": 90, "name": "cow"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, content: dict[str, Any] | None = None, num_images: int = 3) -> None:
    """root/train.json with root/images/*.jpg of the declared sizes."""
    content = coco_content(num_images) if content is None else content
    for i in range(num_images):
        write_image(root / "images" / f"{i}.jpg", seed=i)
    (root / "train.json").write_text(json.dumps(content))


VOC_OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
    "<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
)


def voc_xml(
    objects: list[tuple[str, tuple[Any, ...], int]], size: tuple[int, int] = (40, 60)
) -> str:
    """One annotation file."""
    body = "".join(VOC_OBJECT.format(name=n, box=b, difficult=d) for n, b, d in objects)
    return (
        f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>"
        f"{body}</annotation>"
    )


def write_voc(root: Path, files: dict[str, str], split: str = "train") -> None:
    """A VOC tree with one 60x40 image per annotation file."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i, (stem, text) in enumerate(files.items()):
        write_image(root / "JPEGImages" / f"{stem}.jpg", seed=i)
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(files) + "\n")


def write_yolo(root: Path, labels: dict[str, str | None], classes: str = "cat\ndog\n") -> None:
    """A YOLO tree with one 60x40 image per label file; None leaves the label file out."""
    for i, (stem, text) in enumerate(labels.items()):
        write_image(root / "images/train" / f"{stem}.jpg", seed=i)
        (root / "labels/train").mkdir(parents=True, exist_ok=True)
        if text is not None:
            (root / "labels/train" / f"{stem}.txt").write_text(text)
    (root / "classes.txt").write_text(classes)


def read_some_tall(folder: Path, num_images: int, num_tall: int) -> Records:
    """Images of a data set that is written to `folder`, the first of them tall; the last without
    objects."""
    content = coco_content(num_images)
    for i in range(num_tall):
        content["images"][i].update(height=60, width=40)
    write_coco(folder, content, num_images=num_images)
    for i in range(num_tall):
        write_image(folder / "images" / f"{i}.jpg", (60, 40), seed=i)
    split = {"annotations": "train.json", "images": "images"}
    return read_records(format="coco", root=str(folder), split=split, name="train")
