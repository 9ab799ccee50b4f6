"""Images and boxes for a recipe whose data is not here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detcli.data.formats.shapes import write_shapes
from detcli.recipe import Recipe, recipe_from_dict

COCO_CLASSES = 80
SIZE = (240, 320)  # height and width as drawn; drawing more takes long
ENLARGED = 2  # to the size of most images of COCO
NUM_TRAIN, NUM_VAL = 12, 4


def num_classes(recipe: Recipe) -> int:
    """How many classes a detector has whose data is not read: those that the recipe names, else
    as many as COCO's."""
    return COCO_CLASSES if recipe.data.classes is None else len(recipe.data.classes)


def with_data(recipe: Recipe, scratch: Path, say: Callable[[str], None]) -> Recipe:
    """The recipe itself where its data is, or is made on first use; otherwise a copy that reads
    images drawn into `scratch`, said."""
    data = recipe.data
    if data.format == "shapes" or Path(data.root).exists():
        return recipe
    classes = num_classes(recipe)
    say(
        f"{data.root}: no such folder; using {NUM_TRAIN} synthetic images of "
        f"{SIZE[1] * ENLARGED}x{SIZE[0] * ENLARGED} with {classes} classes instead: times hold for "
        "the network, not for reading your files"
    )
    root = write_shapes(
        str(scratch), variant="small", num_train=NUM_TRAIN, num_val=NUM_VAL, size=SIZE, seed=0
    )
    for split in ("train", "val"):
        for path in sorted((Path(root) / "images" / split).iterdir()):
            _enlarge(path)
        path = Path(root) / "annotations" / f"{split}.json"
        path.write_text(json.dumps(_changed(json.loads(path.read_text()), recipe)))
    values = recipe.model_dump(mode="json")
    if "class_weights" in values["model"].get("class_loss", {}):
        values["model"]["class_loss"]["class_weights"] = None  # they are of other classes
    values["data"] |= {"format": "coco", "root": root, "class_file": None, "shapes": None}
    values["data"] |= {"train": _split("train"), "val": _split("val"), "test": _split("val")}
    return recipe_from_dict(values, recipe.name)


def _split(name: str) -> dict[str, str]:
    return {"annotations": f"annotations/{name}.json", "images": f"images/{name}"}


def _enlarge(path: Path) -> None:
    import cv2

    image = cv2.imread(str(path))
    assert image is not None, "it was written a moment ago"
    cv2.imwrite(str(path), cv2.resize(image, None, fx=ENLARGED, fy=ENLARGED))


def _changed(content: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Drawn annotations for the enlarged images, with the classes of the recipe, each as often as
    the others."""
    names = recipe.data.classes or [f"class {i + 1}" for i in range(COCO_CLASSES)]
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    for image in content["images"]:
        image |= {side: image[side] * ENLARGED for side in ("height", "width")}
    for position, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = position % len(names) + 1
        annotation["bbox"] = [value * ENLARGED for value in annotation["bbox"]]
        annotation["area"] *= ENLARGED**2
    return content
